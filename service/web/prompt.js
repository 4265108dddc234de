/** The prompt box, with words to try: a click puts one in, another takes it out again. */

import { arrowKeys, element } from "./build.js";

/** Words whose meaning the built-in model was taught. */
const WORDS = ["warm", "cool", "bright", "dark", "colorful", "monochrome", "high contrast"];

const parts = (text) => text.split(",").map((part) => part.trim()).filter(Boolean);

export class Prompt {
  constructor(box, list) {
    this.box = box;
    this.buttons = WORDS.map((word) => {
      const button = element("button", { type: "button", className: "word", textContent: word });
      button.addEventListener("click", () => this.toggle(word));
      return button;
    });
    list.append(...this.buttons.map((button) => element("li", {}, button)));
    arrowKeys(list, "button");
    box.addEventListener("input", () => this.refresh());
    this.refresh();
  }

  value() {
    return this.box.value.trim();
  }

  toggle(word) {
    const now = parts(this.box.value);
    const next = now.includes(word) ? now.filter((part) => part !== word) : [...now, word];
    this.box.value = next.join(", ");
    this.box.dispatchEvent(new Event("input", { bubbles: true }));
  }

  refresh() {
    const now = parts(this.box.value);
    for (const button of this.buttons) {
      button.setAttribute("aria-pressed", String(now.includes(button.textContent)));
    }
  }
}
