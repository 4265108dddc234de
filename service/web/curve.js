/** A small line chart of a run: the adaptive factor and, where reported, the reference variance. */

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 280;
const HEIGHT = 72;
const PAD = 4;

function svg(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function legend(className, text) {
  const item = document.createElement("span");
  item.className = `key ${className}`;
  const value = document.createElement("b");
  item.append(text, " ", value);
  return { item, value };
}

const short = (value) => (Math.abs(value) >= 0.01 || value === 0 ? value.toFixed(2) : value.toExponential(1));

/** One line: values by step, scaled to its own ceiling. */
class Line {
  constructor(className, label, floorOfCeiling) {
    this.path = svg("polyline", { class: `line ${className}`, points: "" });
    this.dot = svg("circle", { class: `dot ${className}`, r: 3, cx: -9, cy: -9 });
    this.key = legend(className, label);
    this.floorOfCeiling = floorOfCeiling;
    this.values = new Map();
  }

  add(step, value) {
    if (typeof value === "number" && Number.isFinite(value)) this.values.set(step, value);
  }

  draw(steps) {
    this.key.item.hidden = this.values.size === 0;
    if (this.values.size === 0) return;
    const ceiling = Math.max(this.floorOfCeiling, ...this.values.values()) || 1;
    const points = [...this.values].sort(([a], [b]) => a - b).map(([step, value]) => [
      PAD + ((step - 1) / Math.max(1, steps - 1)) * (WIDTH - 2 * PAD),
      HEIGHT - PAD - (Math.max(0, value) / ceiling) * (HEIGHT - 2 * PAD),
    ]);
    this.path.setAttribute("points", points.map((point) => point.map((n) => n.toFixed(1)).join()).join(" "));
    const [x, y] = points.at(-1);
    this.dot.setAttribute("cx", x);
    this.dot.setAttribute("cy", y);
    this.key.value.textContent = short(this.latest());
  }

  latest() {
    return this.values.get(Math.max(...this.values.keys()));
  }
}

export class Curve {
  constructor(figure) {
    this.figure = figure;
  }

  clear() {
    this.figure.hidden = true;
    this.lines = null;
  }

  /** Takes a progress event's numbers; the chart appears with the first one. */
  add({ step, steps, adaptive_factor: factor, reference_variance: variance }) {
    if (!Number.isInteger(step) || step < 1) return;
    this.lines ??= this.build();
    this.lines.factor.add(step, factor);
    this.lines.variance.add(step, variance);
    for (const line of Object.values(this.lines)) line.draw(steps);
    const known = this.lines.factor.values.size > 0;
    this.figure.hidden = !known && this.lines.variance.values.size === 0;
    const label = known ? `Adaptive factor ${short(this.lines.factor.latest())} at step ${step} of ${steps}` : "Run";
    this.chart.setAttribute("aria-label", label);
  }

  build() {
    // A factor is drawn against at least 1, so that a constant 1 reads as "full"; a variance has no such scale.
    const lines = {
      variance: new Line("variance", "Reference variance", 0),
      factor: new Line("factor", "Adaptive factor", 1),
    };
    this.chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    for (const y of [PAD, HEIGHT / 2, HEIGHT - PAD]) {
      this.chart.append(svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
    }
    for (const line of Object.values(lines)) this.chart.append(line.path, line.dot);
    const caption = document.createElement("figcaption");
    caption.append(lines.factor.key.item, lines.variance.key.item);
    this.figure.replaceChildren(this.chart, caption);
    return lines;
  }
}
