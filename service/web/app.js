/** Wires the page together. The address says what is shown: nothing, or #<job id>. */

import { mayAskAgain, offerKeyChange } from "./access.js";
import { Curves } from "./curves.js";
import { confirmStop } from "./dialogs.js";
import { Draft } from "./draft.js";
import { Health } from "./health.js";
import * as history from "./history.js";
import { listen } from "./intake.js";
import { resultName, thumbnail } from "./picture.js";
import { Pictures } from "./pictures.js";
import { Session } from "./session.js";
import { Shelf, summary } from "./shelf.js";
import { Stage } from "./stage.js";
import { Strip } from "./strip.js";
import { offerThemes } from "./theme.js";
import { ENDED, announce, renderDraft, renderEmpty, renderSession, renderWaiting } from "./view.js";

const JOB_ID = /^#([\w-]{1,64})$/;
const TICK_MS = 1000;
/** Jobs of others are listed once it is known that they exist. */
const UNLISTED = new Set(["connecting", "gone"]);
const byId = (id) => document.getElementById(id);

class App {
  constructor() {
    this.stage = new Stage(byId("stage"));
    this.strip = new Strip(byId("strip"), (key) => this.look(key));
    this.curves = new Curves(byId("curves"));
    this.shelf = new Shelf(byId("shelf"), {
      pick: (key) => this.pick(key),
      remove: (key) => this.remove(key),
      add: () => this.another(),
    });
    this.draft = new Draft({
      look: (source) => this.showDraft(source),
      send: (sources, options) => this.send(sources, options),
      empty: () => this.another(),
      problem: (error) => this.complain(error),
    });
    this.sessions = [];
    this.current = null;
    this.made = 0;
    byId("cancel").addEventListener("click", () => this.current?.cancel());
    byId("reconnect").addEventListener("click", () => this.current?.reconnect());
    byId("again").addEventListener("click", () => this.again());
    byId("another").addEventListener("click", () => this.another());
    byId("home").addEventListener("click", (event) => {
      event.preventDefault();
      this.another();
    });
    window.addEventListener("popstate", () => this.route());
    history.onOtherTab(() => this.list());
    setInterval(() => this.current && renderWaiting(this.current.state), TICK_MS);
    listen((pictures) => this.add(pictures), (problem) => this.complain(problem));
  }

  /** Takes up what was still going on, and shows what the address names. */
  begin() {
    for (const job of history.jobs()) if (!ENDED.has(job.phase)) this.find(job.id);
    this.route();
  }

  route() {
    const id = JOB_ID.exec(location.hash)?.[1];
    if (id) this.show(this.find(id));
    else if (!this.draft.isEmpty) this.showDraft(this.draft.chosen);
    else this.empty();
  }

  empty() {
    this.current = null;
    this.stage.clear();
    this.strip.clear();
    renderEmpty();
    this.list();
  }

  another() {
    this.leaveAddress();
    if (!this.draft.isEmpty) {
      this.showDraft(this.draft.chosen);
      return;
    }
    this.empty();
    byId("drop").focus();
  }

  leaveAddress() {
    if (location.hash) window.history.pushState(null, "", location.pathname + location.search);
  }

  add(pictures) {
    mayAskAgain();
    this.draft.add(pictures);
  }

  showDraft(source) {
    this.current = null;
    this.leaveAddress();
    const pictures = new Pictures();
    if (source.width !== null) pictures.setOriginal(source.blob);
    this.strip.clear();
    this.stage.show(pictures);
    renderDraft();
    this.list();
  }

  /** The session of a job, which is picked up where there is none yet. */
  find(id) {
    const known = this.sessions.find((session) => session.id === id);
    if (known) return known;
    const name = history.jobs().find((job) => job.id === id)?.name ?? "picture.png";
    const session = this.open(name, id);
    session.attach(id);
    return session;
  }

  /** Its key stays as it is when it is sent, so that its row stays where a pointer is pressed. */
  open(name, key = `new-${(this.made += 1)}`) {
    const session = new Session(key, name, {
      change: (changed) => this.changed(changed),
      pictures: (changed) => this.pictured(changed),
      numbers: (changed) => this.numbered(changed),
      job: (changed) => this.accepted(changed),
    });
    session.at = Date.now();
    this.sessions.unshift(session);
    return session;
  }

  show(session) {
    this.current = session;
    const hash = session.id === null ? "" : `#${session.id}`;
    if (!hash) this.leaveAddress();
    else if (location.hash !== hash) window.history.pushState(null, "", hash);
    this.strip.clear();
    this.forgetResult();
    renderSession(session.state);
    this.pictured(session);
    this.numbered(session);
    this.list();
  }

  /** Each picture becomes a job; they are sent one after the other, in the order chosen. */
  async send(sources, options) {
    mayAskAgain();
    const sessions = sources.map((source) => {
      const session = this.open(source.name);
      session.queue(source, options);
      return session;
    });
    this.show(sessions[0]);
    for (const session of sessions) await session.send();
  }

  changed(session) {
    const { phase, problem } = session.state;
    if (session.id !== null && history.has(session.id)) this.record(session, phase);
    if (session === this.current) renderSession(session.state);
    else if (ENDED.has(phase) && session.told !== phase) {
      announce(`${session.name}: ${problem?.title ?? summary(phase)}`);
    }
    session.told = phase;
    this.list();
  }

  /** A job that failed to be reached is not over: it is taken up again by the next visit. */
  record(session, phase) {
    const code = session.state.problem?.code;
    const reached = code !== "unreachable" && code !== "unauthorized";
    if (session.recorded === phase || phase === "connecting" || !reached) return;
    session.recorded = phase;
    history.note(session.id, { phase });
  }

  async accepted(session) {
    history.note(session.id, { name: session.name, at: session.at, phase: session.state.phase });
    if (session === this.current) window.history.pushState(null, "", `#${session.id}`);
    this.list();
    if (session.pictures.result === null) await this.keepThumb(session, session.pictures.original);
  }

  async keepThumb(session, picture) {
    const thumb = picture && (await thumbnail(picture.blob));
    if (!thumb || session.left) return;
    // That of a result stays, however long that of the original took.
    if (picture.key === "original" && session.pictures.result !== null) return;
    session.thumb = thumb;
    if (session.id !== null && history.has(session.id)) history.note(session.id, { thumb });
    this.list();
  }

  pictured(session) {
    const { pictures } = session;
    if (pictures.result && session.thumbed !== pictures.result) {
      session.thumbed = pictures.result;
      this.keepThumb(session, pictures.result);
    }
    if (session !== this.current) return;
    this.stage.show(pictures);
    this.strip.show(pictures);
    if (pictures.result) this.offerResult(session);
  }

  numbered(session) {
    if (session === this.current) this.curves.show(session.numbers, session.state.steps);
  }

  look(key) {
    this.current?.pictures.choose(key);
    if (this.current) this.pictured(this.current);
  }

  offerResult({ pictures: { result }, name }) {
    const save = byId("save");
    save.href = result.url;
    save.download = resultName(name, result.blob.type);
  }

  forgetResult() {
    byId("save").removeAttribute("href");
  }

  /** A result that did not come through; the same once more after a failure; else a new draft. */
  again() {
    mayAskAgain();
    const { source, id, state, options } = this.current;
    const lost = ["unreachable", "unauthorized"].includes(state.problem?.code);
    if (id !== null && lost) {
      this.drop(this.current);
      this.show(this.find(id));
    } else if (state.phase === "failed") {
      if (source) this.send([source], options);
      else this.another();
    } else {
      this.draft.clear();
      this.draft.insert(source);
    }
  }

  /** Something that has no session of its own went wrong. */
  complain(error) {
    const session = this.open("picture");
    this.show(session);
    session.fail(error);
  }

  items() {
    const live = new Map(this.sessions.map((session) => [session.id ?? session.key, session]));
    const sent = history.jobs().map((job) => {
      const session = live.get(job.id);
      live.delete(job.id);
      const known = session && session.state.phase !== "connecting";
      return { ...job, ...(known && face(session)), key: session?.key ?? job.id, at: job.at };
    });
    const others = [...live.values()].map((session) => ({ ...face(session), key: session.key }));
    return [...others.filter((item) => !UNLISTED.has(item.phase)), ...sent];
  }

  list() {
    const { current } = this;
    this.shelf.show(this.items(), current && current.key);
  }

  pick(key) {
    mayAskAgain();
    this.show(this.sessions.find((session) => session.key === key) ?? this.find(key));
  }

  async remove(key) {
    const session = this.sessions.find((one) => one.key === key);
    const going = session && !session.ended;
    if (going) {
      if (!(await confirmStop(session.name))) return;
      if (!session.ended) session.cancel();
    }
    history.forget(session?.id ?? key);
    const shown = session && session === this.current;
    if (session) this.drop(session);
    if (shown) this.another();
    else this.list();
  }

  drop(session) {
    session.leave();
    this.sessions = this.sessions.filter((other) => other !== session);
  }
}

/** What the shelf shows of a session. */
function face({ name, at, state, thumb, pictures }) {
  const shown = thumb ?? pictures.original?.url;
  return { name, at, phase: state.phase, state, ...(shown ? { thumb: shown } : {}) };
}

const app = new App();
offerThemes(byId("theme"));
offerKeyChange(() => app.route());
new Health(byId("health"));
app.begin();
