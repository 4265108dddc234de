/** The pictures of one restoration: the original, a preview for each step seen, the result. */

export class Pictures {
  constructor() {
    this.original = null;
    this.frames = [];
    this.result = null;
    /** The one that is looked at: "original", a step, or null for the newest there is. */
    this.chosen = null;
  }

  setOriginal(blob) {
    this.original = entry("original", "Original", blob);
  }

  setResult(blob) {
    this.result = entry("result", "Result", blob);
    this.chosen = null;
  }

  /** A job that starts over shows each step anew. */
  addFrame(meta, blob) {
    const at = this.frames.findIndex((frame) => frame.key >= meta.step);
    const later = at < 0 ? [] : this.frames.splice(at);
    for (const frame of later) URL.revokeObjectURL(frame.url);
    this.frames.push({ ...entry(meta.step, `Step ${meta.step}`, blob), steps: meta.steps });
  }

  all() {
    return [this.original, ...this.frames, this.result].filter(Boolean);
  }

  /** The entry that is looked at, or null. */
  shown() {
    const picked = this.all().find((picture) => picture.key === this.chosen);
    return picked ?? this.all().at(-1) ?? null;
  }

  choose(key) {
    this.chosen = key === this.all().at(-1)?.key ? null : key;
  }

  /** Whether the shown picture is the result beside the original. */
  get compares() {
    return this.result !== null && this.original !== null && this.shown() === this.result;
  }

  release() {
    for (const picture of this.all()) URL.revokeObjectURL(picture.url);
  }
}

function entry(key, label, blob) {
  return { key, label, blob, url: URL.createObjectURL(blob) };
}
