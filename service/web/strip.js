/** The film strip: every picture of a restoration, to look at again with a click. */

import { arrowKeys, element } from "./build.js";

export class Strip {
  constructor(root, onPick) {
    this.root = root;
    this.onPick = onPick;
    this.items = new Map();
    arrowKeys(root, "button");
  }

  clear() {
    this.items.clear();
    this.root.replaceChildren();
    this.root.hidden = true;
  }

  /** Shows these pictures; buttons that are there already stay, and with them the focus. */
  show(pictures) {
    const all = pictures.all();
    const urls = new Set(all.map((picture) => picture.url));
    for (const [url, item] of this.items) {
      if (urls.has(url)) continue;
      item.remove();
      this.items.delete(url);
    }
    const atEnd = this.root.scrollLeft + this.root.clientWidth >= this.root.scrollWidth - 80;
    for (const picture of all) {
      if (!this.items.has(picture.url)) this.items.set(picture.url, this.build(picture));
      this.root.append(...(this.isPlaced(picture, all) ? [] : [this.items.get(picture.url)]));
    }
    const shown = pictures.shown();
    for (const picture of all) {
      const button = this.items.get(picture.url).firstChild;
      button.setAttribute("aria-pressed", String(picture === shown));
    }
    this.root.hidden = all.length < 2;
    if (atEnd && pictures.chosen === null) this.root.scrollLeft = this.root.scrollWidth;
  }

  isPlaced(picture, all) {
    return this.root.children[all.indexOf(picture)] === this.items.get(picture.url);
  }

  build({ key, label, url }) {
    const picture = element("img", { src: url, alt: "", width: 72, height: 54 });
    const text = element("span", { textContent: label });
    const button = element("button", { type: "button", className: "still" }, picture, text);
    button.dataset.still = key;
    button.addEventListener("click", () => this.onPick(key));
    return element("li", {}, button);
  }
}
