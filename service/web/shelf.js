/** The row of this browser's pictures: what they have come to, to switch between, to remove. */

import { arrowKeys, element } from "./build.js";
import { ahead, duration } from "./durations.js";

const WORDS = {
  draft: "Not sent yet",
  preparing: "Reading",
  uploading: "Sending",
  connecting: "Looking up",
  queued: "In the queue",
  running: "Restoring",
  canceling: "Canceling",
  fetching: "Fetching",
  succeeded: "Restored",
  failed: "Failed",
  canceled: "Canceled",
  expired: "Waited too long",
  gone: "No longer kept",
};

/** The line under the name: how far it is, as short as it can be said. */
export function summary(phase, state) {
  if (state?.offline) return "Offline";
  if (phase === "running" && state?.value) return `${Math.round(state.value * 100)} %`;
  const position = state?.eta?.position;
  if (phase === "queued" && Number.isInteger(position)) return ahead(position);
  return WORDS[phase] ?? phase;
}

/** What a pointer that rests on a picture is told. */
function hint(item) {
  const likely = item.state?.eta?.times?.likely;
  const sent = new Date(item.at).toLocaleString();
  return `${item.name}, ${sent}${likely ? `, about ${duration(likely)}` : ""}`;
}

export class Shelf {
  /** `on.pick(key)`, `on.remove(key)`, `on.add()`. */
  constructor(root, on) {
    this.root = root;
    this.list = root.querySelector("ul");
    this.on = on;
    this.rows = new Map();
    const plus = element("span", { className: "plus", textContent: "+", ariaHidden: "true" });
    const add = element("button", { type: "button", className: "job new", id: "new" }, plus, "New");
    add.addEventListener("click", () => on.add());
    this.first = element("li", {}, add);
    this.list.append(this.first);
    arrowKeys(this.list, ".job");
  }

  /** Items are {key, name, at, phase, state, thumb}, newest first; `current` is the one shown. */
  show(items, current) {
    const keys = new Set(items.map((item) => item.key));
    for (const [key, row] of this.rows) {
      if (keys.has(key)) continue;
      row.node.remove();
      this.rows.delete(key);
    }
    items.forEach((item, index) => {
      if (!this.rows.has(item.key)) this.rows.set(item.key, this.build(item));
      const row = this.rows.get(item.key);
      this.fill(row, item, item.key === current);
      const at = index + 1;
      if (this.list.children[at] !== row.node) {
        this.list.insertBefore(row.node, this.list.children[at] ?? null);
      }
    });
    this.root.hidden = items.length === 0;
    this.first.firstChild.setAttribute("aria-current", String(current === null));
  }

  fill(row, item, isCurrent) {
    row.node.dataset.phase = item.phase;
    row.button.title = hint(item);
    row.name.textContent = item.name;
    row.text.textContent = summary(item.phase, item.state);
    row.remove.setAttribute("aria-label", `Remove ${item.name}`);
    const share = item.phase === "running" ? (item.state?.value ?? 0) : 0;
    row.node.style.setProperty("--done", String(share));
    if (isCurrent) row.button.setAttribute("aria-current", "true");
    else row.button.removeAttribute("aria-current");
    if (item.thumb && row.thumb.getAttribute("src") !== item.thumb) row.thumb.src = item.thumb;
    row.thumb.hidden = !item.thumb;
  }

  build({ key }) {
    const thumb = element("img", { alt: "", width: 48, height: 48, hidden: true });
    const name = element("b");
    const text = element("span", { className: "job-state" });
    const words = element("span", { className: "job-words" }, name, text);
    const mat = element("span", { className: "mat" }, thumb);
    const button = element("button", { type: "button", className: "job" }, mat, words);
    const remove = element("button", { type: "button", className: "remove", textContent: "×" });
    const node = element("li", {}, button, remove);
    node.dataset.key = key;
    button.addEventListener("click", () => this.on.pick(key));
    remove.addEventListener("click", () => this.on.remove(key));
    return { node, button, remove, thumb, name, text };
  }
}
