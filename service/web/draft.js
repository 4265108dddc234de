/** Pictures that are chosen and not sent yet, with the settings they will be sent with. */

import { element, write } from "./build.js";
import { Options } from "./options.js";
import { prepare, sizeText } from "./picture.js";
import { Presets } from "./presets.js";
import { Prompt } from "./prompt.js";

const byId = (id) => document.getElementById(id);

export class Draft {
  /** Calls `on.look(source)`, `on.send(sources, options)`, `on.empty()`, `on.problem(error)`. */
  constructor(on) {
    this.on = on;
    this.sources = [];
    this.chosen = null;
    this.prompt = new Prompt(byId("prompt"), byId("words"));
    this.presets = new Presets(byId("presets"), () => this.settings());
    this.options = new Options(byId("settings"), () => this.presets.refresh());
    byId("compose").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    byId("discard").addEventListener("click", () => this.discard());
  }

  get isEmpty() {
    return this.sources.length === 0;
  }

  /** Prepares pictures and adds them; what cannot be sent at all is told as a problem. */
  async add(pictures) {
    for (const { file, name } of pictures) {
      try {
        this.insert(await prepare(file, name));
      } catch (error) {
        this.on.problem(error);
      }
    }
  }

  /** Adds what is ready to send. */
  insert(source) {
    const shown = { ...source, url: URL.createObjectURL(source.blob) };
    this.sources.push(shown);
    this.choose(this.chosen ?? shown);
  }

  choose(source) {
    this.chosen = source;
    this.render();
    this.on.look(source);
    this.presets.watch(source.width === null ? null : source);
  }

  remove(source) {
    URL.revokeObjectURL(source.url);
    this.sources = this.sources.filter((other) => other !== source);
    if (this.isEmpty) this.discard();
    else this.choose(source === this.chosen ? this.sources[0] : this.chosen);
  }

  clear() {
    this.presets.rest();
    for (const source of this.sources) URL.revokeObjectURL(source.url);
    this.sources = [];
    this.chosen = null;
  }

  discard() {
    this.clear();
    this.on.empty();
  }

  settings() {
    const prompt = this.prompt?.value();
    return { ...(prompt ? { prompt } : {}), ...(this.options?.values() ?? {}) };
  }

  send() {
    if (this.isEmpty || !this.options.valid()) return;
    const { sources } = this;
    const options = { preset: this.presets.value(), ...this.settings() };
    this.clear();
    this.on.send(sources, options);
  }

  render() {
    const count = this.sources.length;
    const one = count === 1;
    byId("compose-title").textContent = one ? "Ready to restore" : `${count} pictures`;
    byId("restore").textContent = one ? "Restore" : `Restore all ${count}`;
    byId("sources").replaceChildren(...this.sources.map((source) => this.row(source)));
    write("compose-note", this.chosen.note);
  }

  row(source) {
    const size = source.width === null ? "unknown size" : sizeText(source.width, source.height);
    const picture = element("img", { src: source.url, alt: "", width: 40, height: 40 });
    const words = element(
      "span",
      {},
      element("b", { textContent: source.name }),
      element("span", { className: "small", textContent: size }),
    );
    const look = element("button", { type: "button", className: "source" }, picture, words);
    look.setAttribute("aria-pressed", String(source === this.chosen));
    look.addEventListener("click", () => this.choose(source));
    const remove = element("button", { type: "button", className: "remove", textContent: "×" });
    remove.setAttribute("aria-label", `Leave out ${source.name}`);
    remove.addEventListener("click", () => this.remove(source));
    return element("li", {}, look, ...(this.sources.length > 1 ? [remove] : []));
  }
}
