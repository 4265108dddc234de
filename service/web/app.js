/** Wires the page together. The address says what is shown: nothing, or #<job id>. */

import { Curve } from "./curve.js";
import { watchHealth } from "./health.js";
import { listen } from "./intake.js";
import { OptionsForm } from "./options.js";
import { resultName } from "./picture.js";
import { Session } from "./session.js";
import { Stage } from "./stage.js";
import { renderEmpty, renderSession } from "./view.js";

const JOB_ID = /^#([\w-]{1,64})$/;
const byId = (id) => document.getElementById(id);

class App {
  constructor() {
    this.stage = new Stage(byId("stage"));
    this.curve = new Curve(byId("curve"));
    this.options = new OptionsForm(byId("settings"));
    this.session = null;
    byId("cancel").addEventListener("click", () => this.session?.cancel());
    byId("again").addEventListener("click", () => this.again());
    byId("another").addEventListener("click", () => this.another());
    byId("home").addEventListener("click", (event) => {
      event.preventDefault();
      this.another();
    });
    window.addEventListener("popstate", () => this.route());
    listen(
      () => this.isIdle(),
      (file, name) => this.start(file, name),
      (problem) => this.open().fail(problem),
    );
  }

  isIdle() {
    return this.session === null || this.session.ended;
  }

  /** Shows what the address names. */
  route() {
    const id = JOB_ID.exec(location.hash)?.[1];
    if (!id) this.empty();
    else if (id !== this.session?.id) this.open().attach(id);
  }

  empty() {
    this.leave();
    renderEmpty();
  }

  leave() {
    this.session?.leave();
    this.session = null;
    this.stage.clear();
    this.curve.clear();
    this.forgetResult();
  }

  /** A fresh session in place of the one shown so far. */
  open() {
    this.leave();
    const session = new Session({
      change: renderSession,
      picture: (blob) => this.stage.showOriginal(blob),
      preview: (meta, picture) => this.stage.showPreview(meta, picture),
      progress: (event) => this.curve.add(event),
      result: (result, original, name) => this.showResult(result, original, name),
      job: (id) => history.pushState(null, "", `#${id}`),
    });
    this.session = session;
    return session;
  }

  start(file, name) {
    if (!this.options.valid()) return;
    this.open().send(file, name, this.options.values());
  }

  /** The same picture once more, with the settings as they are now; or a result that did not come through. */
  again() {
    if (!this.options.valid()) return;
    const { source, id, state } = this.session;
    if (id !== null && state.problem?.code === "unreachable") this.open().attach(id);
    else this.open().restart(source, this.options.values());
  }

  another() {
    if (location.hash) history.pushState(null, "", location.pathname + location.search);
    this.empty();
    byId("drop").focus();
  }

  async showResult(result, original, name) {
    await this.stage.showResult(result, original);
    this.forgetResult();
    const save = byId("save");
    this.resultUrl = URL.createObjectURL(result);
    save.href = this.resultUrl;
    save.download = resultName(name, result.type);
    return this.stage.slider !== null;
  }

  forgetResult() {
    if (this.resultUrl) URL.revokeObjectURL(this.resultUrl);
    this.resultUrl = null;
    byId("save").removeAttribute("href");
  }
}

const app = new App();
app.route();
watchHealth(byId("health"));
