/** The presets to choose from, each with the time that the service foretells for it. */

import { estimate } from "./api.js";
import { element } from "./build.js";
import { duration, range } from "./durations.js";

const PRESETS = [
  ["faithful", "Faithful", "As published"],
  ["balanced", "Balanced", "Nearly as close, sooner"],
  ["fast", "Fast", "Fewest steps"],
];
const CHOSEN = "balanced";
const AGAIN_MS = 10_000;
const SETTLE_MS = 300;
export const UNKNOWN = "time not known yet";

function card([value, title, text]) {
  const input = element("input", { type: "radio", name: "preset", value, id: `preset-${value}` });
  input.checked = value === CHOSEN;
  input.setAttribute("aria-labelledby", `name-${value}`);
  input.setAttribute("aria-describedby", `about-${value} time-${value}`);
  const about = element("span", { className: "about", id: `about-${value}`, textContent: text });
  const time = element("span", { className: "time", id: `time-${value}`, textContent: "…" });
  const name = element("b", { id: `name-${value}`, textContent: title });
  const words = element("span", {}, name, about);
  return element("label", { className: "preset", htmlFor: input.id }, input, words, time);
}

export class Presets {
  /** @param {() => object} options the other settings, which change the time as well */
  constructor(root, options) {
    this.root = root;
    this.options = options;
    this.size = null;
    this.asked = 0;
    root.append(...PRESETS.map(card));
  }

  value() {
    return this.root.querySelector("input:checked").value;
  }

  /** Foretells for a picture of this size until `rest`; a size that is null is not known. */
  watch(size) {
    this.size = size;
    for (const [name] of PRESETS) this.write(name, "…", "");
    this.refresh(0);
  }

  rest() {
    clearTimeout(this.timer);
    this.size = undefined;
    this.asked += 1;
  }

  /** The settings have changed. */
  refresh(wait = SETTLE_MS) {
    clearTimeout(this.timer);
    if (this.size === undefined) return;
    this.timer = setTimeout(() => this.ask(), wait);
  }

  async ask() {
    this.asked += 1;
    const { asked } = this;
    await Promise.all(PRESETS.map(([preset]) => this.foretell(preset, asked)));
    if (asked === this.asked) this.refresh(AGAIN_MS);
  }

  async foretell(preset, asked) {
    let eta = null;
    let position = 0;
    try {
      if (this.size) {
        const { width, height } = this.size;
        ({ eta, position } = await estimate(width, height, { ...this.options(), preset }));
      }
    } catch (problem) {
      console.info("No estimate:", problem.message);
    }
    if (asked !== this.asked) return;
    if (eta === null) {
      this.write(preset, UNKNOWN, "");
      return;
    }
    const queue = position > 0 ? `, with ${position} waiting before it` : "";
    this.write(preset, `about ${duration(eta.likely_s)}`, range(eta.low_s, eta.high_s) + queue);
  }

  write(preset, text, title) {
    const node = document.getElementById(`time-${preset}`);
    node.textContent = text;
    node.title = title;
  }
}
