/** Before and after in one frame, divided by a handle that pointer, touch and keys can move. */

import { element } from "./build.js";

const KEYS = {
  ArrowLeft: (at) => at - 2,
  ArrowDown: (at) => at - 2,
  ArrowRight: (at) => at + 2,
  ArrowUp: (at) => at + 2,
  PageDown: (at) => at - 10,
  PageUp: (at) => at + 10,
  Home: () => 0,
  End: () => 100,
};

function tag(className, text) {
  const node = element("span", { className: `tag ${className}`, textContent: text });
  node.setAttribute("aria-hidden", "true");
  return node;
}

function pane(className, image, alt) {
  Object.assign(image, { className, alt, draggable: false });
  return element("div", { className: `pane ${className}-pane` }, image);
}

/** Fills `frame` with the two pictures (decoded <img> elements) and the handle. */
export class Slider {
  constructor(frame, before, after) {
    this.frame = frame;
    this.handle = this.buildHandle();
    this.tags = [tag("tag-before", "Before"), tag("tag-after", "After")];
    frame.replaceChildren(
      pane("after", after, "After"),
      pane("before", before, "Before"),
      ...this.tags,
      this.handle,
    );
    frame.classList.add("comparing");
    this.move(50);
  }

  /** Leaves the frame empty for its next use. */
  destroy() {
    this.frame.classList.remove("comparing");
    this.frame.replaceChildren();
  }

  buildHandle() {
    const handle = element("div", { className: "handle", tabIndex: 0 });
    const attributes = {
      role: "slider",
      "aria-label": "Boundary between before and after",
      "aria-orientation": "horizontal",
      "aria-valuemin": 0,
      "aria-valuemax": 100,
    };
    for (const [name, value] of Object.entries(attributes)) handle.setAttribute(name, value);
    handle.append(element("span", { className: "grip" }));
    handle.addEventListener("keydown", (event) => this.press(event));
    return handle;
  }

  focus() {
    this.handle.focus({ preventScroll: true, focusVisible: false });
  }

  press(event) {
    const step = KEYS[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    event.preventDefault();
    this.move(step(this.at));
  }

  moveTo(clientX) {
    const { left, width } = this.frame.getBoundingClientRect();
    this.move(((clientX - left) / width) * 100);
  }

  /** Puts the boundary at `at` percent from the left: before on its left, after on its right. */
  move(at) {
    this.at = Math.min(100, Math.max(0, at));
    this.frame.style.setProperty("--at", `${this.at}%`);
    const shown = Math.round(this.at);
    this.handle.setAttribute("aria-valuenow", shown);
    this.handle.setAttribute("aria-valuetext", `${shown} % before, ${100 - shown} % after`);
    this.tags[0].classList.toggle("faded", this.at < 20);
    this.tags[1].classList.toggle("faded", this.at > 80);
  }
}
