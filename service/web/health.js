/** The notice above the page while the service is starting or out of reach. */

import { readiness } from "./api.js";

const AGAIN_MS = 3000;
const CALM_MS = 20_000;
const TEXTS = {
  ready: "",
  starting: "The model is still loading. Pictures sent now wait in the queue.",
  unreachable: "Offline: the server cannot be reached. Trying again.",
};

/** Asks for as long as the page is looked at, more often while something is the matter. */
export class Health {
  constructor(notice) {
    this.notice = notice;
    for (const name of ["online", "offline"]) window.addEventListener(name, () => this.ask());
    document.addEventListener("visibilitychange", () => document.hidden || this.ask());
    this.ask();
  }

  async ask() {
    clearTimeout(this.timer);
    const state = await readiness();
    if (this.notice.dataset.state !== state) {
      this.notice.textContent = TEXTS[state];
      this.notice.hidden = state === "ready";
      this.notice.dataset.state = state;
    }
    clearTimeout(this.timer);
    if (document.hidden) return;
    this.timer = setTimeout(() => this.ask(), state === "ready" ? CALM_MS : AGAIN_MS);
  }
}
