/** The picture area: original, previews fading in one over the other, then the comparison. */

import { element } from "./build.js";
import { Slider } from "./slider.js";
import { Zoom } from "./zoom.js";

/** A decoded <img> of a blob, or null when the browser cannot show it. */
async function decoded(blob) {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
    return image;
  } catch {
    return null;
  } finally {
    // A decoded element keeps its pixels; the address would only hold the blob.
    URL.revokeObjectURL(url);
  }
}

const pane = (image) => element("div", { className: "pane" }, image);

export class Stage {
  constructor(root) {
    this.root = root;
    this.frame = root.querySelector(".frame");
    this.chip = root.querySelector(".chip");
    this.zoom = new Zoom(this.frame, root.querySelector(".tools"));
    this.working = false;
    this.clear();
  }

  clear() {
    this.pictures = null;
    this.placed = null;
    this.empty();
    this.root.dataset.previews = "0";
  }

  empty() {
    this.slider?.destroy();
    this.slider = null;
    this.root.dataset.empty = "";
    this.zoom.reset(null);
    this.frame.replaceChildren();
    this.frame.removeAttribute("tabindex");
    this.root.dataset.look = "";
    this.label("");
  }

  label(text) {
    this.chip.textContent = text;
    this.chip.hidden = text === "";
  }

  /** Looks at these pictures from now on, and again whenever they have changed. */
  async show(pictures) {
    if (pictures !== this.pictures) this.clear();
    this.pictures = pictures;
    this.root.dataset.previews = String(pictures.frames.length);
    if (this.working) return;
    this.working = true;
    try {
      // Pictures that come while one is being decoded are passed over but for the newest.
      while (this.pictures !== null && this.wanted() !== this.placed) await this.place();
    } finally {
      this.working = false;
    }
  }

  /** What should be seen: the address of a picture, marked where it is compared. */
  wanted() {
    const shown = this.pictures.shown();
    return shown && `${this.pictures.compares ? "compare " : ""}${shown.url}`;
  }

  async place() {
    const { pictures } = this;
    const [wanted, shown] = [this.wanted(), pictures.shown()];
    const before = pictures.compares ? pictures.original.blob : null;
    const [after, original] = await Promise.all([decoded(shown.blob), before && decoded(before)]);
    if (pictures !== this.pictures) return;
    this.placed = wanted;
    if (!after) return;
    this.root.dataset.look = shown.key;
    this.frame.tabIndex = 0;
    const words = "plus and minus zoom, arrow keys move it";
    this.frame.setAttribute("aria-label", `${shown.label}; ${words}`);
    this.resize(after);
    if (original) this.compare(original, after);
    else this.layOver(after, shown);
    this.label(original ? "" : shown.label);
  }

  /** Gives the frame a picture's own size in CSS pixels; style sheets keep it inside the page. */
  resize(image) {
    delete this.root.dataset.empty;
    this.frame.style.setProperty("--w", image.naturalWidth);
    this.frame.style.setProperty("--h", image.naturalHeight);
    this.zoom.reset(this.slider);
  }

  compare(before, after) {
    this.slider?.destroy();
    this.slider = new Slider(this.frame, before, after);
    this.zoom.reset(this.slider);
  }

  layOver(image, { label }) {
    if (this.slider) {
      this.slider.destroy();
      this.slider = null;
      this.zoom.reset(null);
    }
    const below = [...this.frame.children];
    const layer = pane(image);
    image.alt = label;
    image.draggable = false;
    layer.classList.add("arriving");
    this.frame.append(layer);
    const settled = layer.getAnimations().map((animation) => animation.finished);
    Promise.allSettled(settled).then(() => below.forEach((old) => old.remove()));
  }
}
