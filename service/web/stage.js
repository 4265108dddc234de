/** The picture area: the original, then each preview fading in over it, then the comparison. */

import { Slider } from "./slider.js";

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

export class Stage {
  constructor(root) {
    this.root = root;
    this.frame = root.querySelector(".frame");
    this.chip = root.querySelector(".chip");
    this.clear();
  }

  clear() {
    this.slider?.destroy();
    this.slider = null;
    this.pending = null;
    this.visit = {};
    this.frame.replaceChildren();
    this.root.dataset.empty = "";
    this.root.dataset.previews = "0";
    this.label("");
  }

  label(text) {
    this.chip.textContent = text;
    this.chip.hidden = text === "";
  }

  /** Gives the frame a picture's own size in CSS pixels; the style sheet keeps it inside the page. */
  resize(width, height) {
    this.frame.style.setProperty("--w", width);
    this.frame.style.setProperty("--h", height);
  }

  async showOriginal(blob) {
    const { visit } = this;
    const image = await decoded(blob);
    if (!image || visit !== this.visit || this.slider || Number(this.root.dataset.previews) > 0) return;
    this.resize(image.naturalWidth, image.naturalHeight);
    this.layOver(image, "Original");
  }

  /** Shows a preview; of several that arrive while one is being decoded only the newest is kept. */
  async showPreview(meta, blob) {
    const busy = this.pending !== null;
    this.pending = { meta, blob };
    if (busy) return;
    const { visit } = this;
    while (visit === this.visit && this.pending) {
      const shown = this.pending;
      const image = await decoded(shown.blob);
      if (visit !== this.visit || this.slider) return;
      if (image) this.placePreview(shown.meta, image);
      if (this.pending === shown) this.pending = null;
    }
  }

  placePreview(meta, image) {
    this.resize(meta.width, meta.height);
    this.layOver(image, `Preview after step ${meta.step}`);
    this.label(`Step ${meta.step}`);
    this.root.dataset.previews = String(Number(this.root.dataset.previews) + 1);
  }

  layOver(image, alt) {
    const below = [...this.frame.children];
    delete this.root.dataset.empty;
    image.className = "layer arriving";
    image.alt = alt;
    this.frame.append(image);
    const settled = image.getAnimations().map((animation) => animation.finished);
    Promise.allSettled(settled).then(() => below.forEach((layer) => layer.remove()));
  }

  /** Ends with the comparison, or with the result alone where there is no original to compare. */
  async showResult(result, original) {
    const { visit } = this;
    const [after, before] = await Promise.all([decoded(result), original ? decoded(original) : null]);
    if (visit !== this.visit || !after) return;
    this.label("");
    delete this.root.dataset.empty;
    this.resize(after.naturalWidth, after.naturalHeight);
    if (before) {
      this.slider = new Slider(this.frame, before, after);
    } else {
      this.frame.replaceChildren();
      this.layOver(after, "Restored picture");
    }
  }
}
