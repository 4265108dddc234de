/** Two small charts of a run, by step: the variance of the reference, and the adaptive factor. */

import { element, shape } from "./build.js";

const WIDTH = 280;
const HEIGHT = 64;
const PAD = 4;

const CHARTS = [
  // A variance has no scale of its own; a factor is drawn against at least 1, which reads as full.
  { name: "variance", title: "Reference variance", ceiling: 0 },
  { name: "factor", title: "Adaptive factor", ceiling: 1 },
];

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 0.01 && size < 1000 ? value.toFixed(2) : value.toExponential(1);
}

function outline(values, steps, ceiling) {
  return values.map(([step, value]) => [
    PAD + ((step - 1) / Math.max(1, steps - 1)) * (WIDTH - 2 * PAD),
    HEIGHT - PAD - (Math.max(0, value) / ceiling) * (HEIGHT - 2 * PAD),
  ]);
}

const joined = (points) => points.map((point) => point.map((n) => n.toFixed(1)).join()).join(" ");

function drawing(name, points) {
  const [[firstX], [x, y]] = [points[0], points.at(-1)];
  const floor = HEIGHT - PAD;
  return [
    ...[PAD, HEIGHT / 2, floor].map((at) =>
      shape("line", { class: "grid", x1: 0, x2: WIDTH, y1: at, y2: at }),
    ),
    shape("polygon", {
      class: `area ${name}`,
      points: joined([[firstX, floor], ...points, [x, floor]]),
    }),
    shape("polyline", { class: `line ${name}`, points: joined(points) }),
    shape("circle", { class: `dot ${name}`, r: 3, cx: x.toFixed(1), cy: y.toFixed(1) }),
  ];
}

function chart({ name, title, ceiling: least }, numbers, steps) {
  const values = [...numbers]
    .map(([step, at]) => [step, at[name]])
    .filter(([, value]) => Number.isFinite(value))
    .sort(([a], [b]) => a - b);
  if (values.length === 0) return null;
  const highest = Math.max(...values.map(([, value]) => value));
  const ceiling = Math.max(least, highest) || 1;
  const [step, latest] = values.at(-1);
  const picture = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  picture.dataset.points = values.length;
  const [first] = values[0];
  const words = `from ${short(values[0][1])} at step ${first} to ${short(latest)} at step ${step}`;
  picture.setAttribute("aria-label", `${title} ${words}`);
  picture.append(...drawing(name, outline(values, steps, ceiling)));
  const now = element("b", { textContent: short(latest) });
  const top = element("small", { textContent: `max ${short(highest)}` });
  const heading = element("span", { textContent: title });
  const head = element("p", { className: "curve-head" }, heading, element("span", {}, top, now));
  const ends = ["step 1", `step ${steps}`];
  const axis = element(
    "p",
    { className: "curve-axis", ariaHidden: "true" },
    ...ends.map((textContent) => element("span", { textContent })),
  );
  return element("div", { className: `curve ${name}` }, head, picture, axis);
}

export class Curves {
  constructor(figure) {
    this.figure = figure;
  }

  /** Draws what is known of a run; nothing while no step has been made. */
  show(numbers, steps) {
    const last = Math.max(steps, ...numbers.keys());
    const charts = CHARTS.map((one) => chart(one, numbers, last)).filter(Boolean);
    this.figure.replaceChildren(...charts);
    this.figure.hidden = charts.length === 0;
  }
}
