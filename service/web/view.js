/** Puts a session's state into words, bar and buttons. Knows the page, not the service. */

import { element, write } from "./build.js";
import { duration, place, range } from "./durations.js";

/** What each phase shows; buttons are ids of index.html. */
const PHASES = {
  uploading: { title: "Uploading", bar: "sent", buttons: ["cancel"] },
  connecting: { title: "Looking up this restoration", bar: "busy", buttons: [] },
  queued: {
    title: "In the queue",
    detail: "Starts as soon as a worker is free.",
    bar: "busy",
    buttons: ["cancel"],
  },
  running: { title: "Restoring", bar: "steps", buttons: ["cancel"] },
  canceling: {
    title: "Canceling",
    detail: "Stops after the current step.",
    bar: "steps",
    buttons: [],
  },
  fetching: { title: "Fetching the result", bar: "full", buttons: [] },
  succeeded: {
    title: "Restored",
    detail: "Drag the line to compare. Wheel or pinch to look closer.",
    buttons: ["save", "another", "again"],
  },
  failed: { title: "This did not work", buttons: ["again", "another"] },
  canceled: {
    title: "Canceled",
    detail: "Stopped before there was a result.",
    buttons: ["again", "another"],
  },
  expired: {
    title: "Waited too long",
    detail: "No worker took this picture in time.",
    buttons: ["again", "another"],
  },
  gone: {
    title: "No longer here",
    detail: "The server does not know it any more; results are kept for a limited time.",
    buttons: ["again", "another"],
  },
};
const BUTTONS = ["save", "again", "another", "cancel"];
const STAGES = { encoding: "Encoding", restoring: "Restoring", decoding: "Decoding" };
export const ENDED = new Set(["succeeded", "failed", "canceled", "expired", "gone"]);

const byId = (id) => document.getElementById(id);

function meterText(state, kind) {
  if (kind === "sent") {
    return state.sent === null ? "Waiting to be sent" : `${Math.round(state.sent * 100)} % sent`;
  }
  if (kind === "full") return `${state.steps || ""} steps done`.trim();
  if (kind !== "steps") return "Waiting";
  if (!state.steps) return "Starting";
  return state.step ? `Step ${state.step} of ${state.steps}` : `${state.steps} steps`;
}

function renderMeter(state, kind) {
  byId("meter").hidden = !kind;
  if (!kind) return;
  const bar = byId("bar");
  const value = { sent: state.sent, steps: state.value, full: 1 }[kind] ?? null;
  // Without a value the bar is in its "busy" form.
  if (value === null) bar.removeAttribute("value");
  else bar.value = value;
  byId("meter-text").textContent = meterText(state, kind);
  byId("meter-stage").textContent = kind === "steps" ? (STAGES[state.stage] ?? "") : "";
}

/** What is left of a foretold time, as it runs out. */
function leftOf({ times, at }) {
  const gone = (performance.now() - at) / 1000;
  const left = times.likely - gone;
  if (gone > times.high) return { likely: "longer than foretold", bounds: "" };
  if (left < 0.5) return { likely: "any moment now", bounds: "" };
  const bounds = range(Math.max(1, times.low - gone), Math.max(1, times.high - gone));
  return { likely: `about ${duration(left)}`, bounds: `(${bounds})` };
}

/** Queue and time; also called once a second by itself, since time passes without news. */
export function renderWaiting(state) {
  const waits = state.phase === "queued";
  const { eta } = state;
  const placed = waits && Number.isInteger(eta?.position);
  const timed = (waits || state.phase === "running") && Boolean(eta?.times);
  byId("position").textContent = placed ? place(eta.position) : "";
  byId("position-row").hidden = !placed;
  byId("eta-row").hidden = !timed && !placed;
  const { likely, bounds } = timed ? leftOf(eta) : { likely: "not known yet", bounds: "" };
  byId("eta").textContent = likely;
  byId("eta-range").textContent = bounds;
  // What was foretold before a break may not hold any more.
  byId("waiting").hidden = (!placed && !timed) || state.offline !== null;
  renderOffline(state);
}

function renderOffline({ offline }) {
  byId("main").toggleAttribute("data-offline", offline !== null);
  byId("offline").hidden = offline === null;
  if (offline === null) return;
  const wait = Math.ceil((offline.until - performance.now()) / 1000);
  const when = wait > 0 ? `in ${wait} s` : "now";
  byId("connection").textContent =
    `The connection was lost; the restoration goes on without it. Trying again ${when}.`;
}

function renderProblem(problem) {
  const list = byId("errors");
  const told = (error) => problem.detail.includes(error.message);
  list.replaceChildren(
    ...(problem?.errors ?? []).filter((error) => !told(error)).map((error) => {
      const where = (error.pointer ?? "").replace(/^[#/]+/, "");
      const textContent = where ? `${where}: ${error.message}` : error.message;
      return element("li", { textContent });
    }),
  );
  list.hidden = list.children.length === 0;
  const parts = [problem?.code, problem?.requestId && `request ${problem.requestId}`];
  write("reference", parts.filter(Boolean).join(" · "));
}

function renderFacts(facts) {
  const list = byId("facts");
  list.hidden = facts.length === 0;
  list.replaceChildren(
    ...facts.map(([name, value]) => {
      const term = element("dt", { textContent: name });
      return element("div", {}, term, element("dd", { textContent: value }));
    }),
  );
}

function renderButtons(state, phase) {
  const shown = phase.buttons.filter((id) => id !== "again" || state.canRunAgain);
  for (const id of BUTTONS) byId(id).hidden = !shown.includes(id);
  byId("again").textContent = state.phase === "failed" ? "Try again" : "Run again";
}

function title({ problem, phase }) {
  return problem?.title && phase === "failed" ? problem.title : PHASES[phase].title;
}

function detail(state) {
  if (state.problem) return state.problem.detail;
  if (state.attempt > 1 && state.phase === "running") {
    return `A worker was lost; this is attempt ${state.attempt}.`;
  }
  const alone = state.phase === "succeeded" && !state.comparable;
  return alone ? "" : PHASES[state.phase].detail;
}

/** A screen reader hears phases and quarters of the way, not every step. */
function announcement(state) {
  if (state.offline !== null) return "Offline. Connection lost, trying again.";
  const quarter = Math.floor((state.value ?? 0) * 4) * 25;
  const along = quarter > 0 && quarter < 100 ? `, ${quarter} % done` : "";
  const queue = Number.isInteger(state.eta?.position) ? `, ${place(state.eta.position)}` : "";
  const more = { running: along, queued: queue }[state.phase] ?? "";
  return `${title(state)}${more}. ${state.problem?.detail ?? ""}`.trim();
}

export function announce(text) {
  const node = byId("announcer");
  if (node.textContent !== text) node.textContent = text;
}

/** Shows one of the three faces of the page: "intake", "compose" or "status". */
function face(name, view) {
  const main = byId("main");
  const changed = main.dataset.face !== name;
  main.dataset.face = name;
  main.dataset.view = view;
  if (name !== "status") main.removeAttribute("data-offline");
  byId("intake").hidden = name !== "intake";
  byId("workspace").hidden = name === "intake";
  byId("compose").hidden = name !== "compose";
  byId("status").hidden = name !== "status";
  return changed;
}

/** Where the focused button has just gone, the keyboard would start over at the top. */
function focusTitle(id, arrived) {
  if (arrived) window.scrollTo(0, 0);
  if (arrived || document.activeElement === document.body) byId(id).focus({ preventScroll: true });
}

/** Shows the first screen. */
export function renderEmpty() {
  face("intake", "empty");
  document.title = "InstantIR";
  announce("");
}

/** Shows the pictures that are not sent yet. */
export function renderDraft() {
  focusTitle("compose-title", face("compose", "draft"));
  document.title = "InstantIR";
  announce("");
}

const progressTitle = ({ value }) =>
  value === null ? "InstantIR" : `${Math.round(value * 100)} % · InstantIR`;

/** Shows one restoration. */
export function renderSession(state) {
  const phase = PHASES[state.phase];
  const arrived = face("status", state.phase);
  byId("status-title").textContent = title(state);
  write("detail", detail(state));
  write("note", state.note);
  renderProblem(state.problem);
  renderMeter(state, phase.bar);
  renderWaiting(state);
  renderFacts(state.facts);
  renderButtons(state, phase);
  document.title = ENDED.has(state.phase) ? `${phase.title} · InstantIR` : progressTitle(state);
  announce(announcement(state));
  focusTitle("status-title", arrived);
}
