/** Puts a session's state into words, bar and buttons. Knows the page, not the service. */

/** What each phase shows; buttons are ids of index.html. */
const PHASES = {
  preparing: { title: "Reading the picture", bar: "busy", buttons: [] },
  uploading: { title: "Uploading", bar: "sent", buttons: ["cancel"] },
  connecting: { title: "Looking up this restoration", bar: "busy", buttons: [] },
  queued: { title: "In the queue", detail: "Starts as soon as a worker is free.", bar: "busy", buttons: ["cancel"] },
  running: { title: "Restoring", bar: "steps", buttons: ["cancel"] },
  canceling: { title: "Canceling", detail: "Stops after the current step.", bar: "steps", buttons: [] },
  fetching: { title: "Fetching the result", bar: "full", buttons: [] },
  succeeded: {
    title: "Restored",
    detail: "Drag the line to compare.",
    buttons: ["save", "another", "again"],
  },
  failed: { title: "This did not work", buttons: ["again", "another"] },
  canceled: { title: "Canceled", detail: "Stopped before there was a result.", buttons: ["again", "another"] },
  expired: { title: "Waited too long", detail: "No worker took this picture in time.", buttons: ["again", "another"] },
  gone: {
    title: "No longer here",
    detail: "The server does not know this restoration any more; results are kept for a limited time.",
    buttons: ["again", "another"],
  },
};
const BUTTONS = ["save", "again", "another", "cancel"];
const ENDED = new Set(["succeeded", "failed", "canceled", "expired", "gone"]);
const STAGES = { encoding: "Encoding", restoring: "Restoring", decoding: "Decoding" };

const byId = (id) => document.getElementById(id);

/** Sets a text and hides its element when there is none. */
function write(id, text) {
  const node = byId(id);
  node.textContent = text ?? "";
  node.hidden = !text;
}

function meterText(state, kind) {
  if (kind === "sent") return state.sent === null ? "Sending" : `${Math.round(state.sent * 100)} % sent`;
  if (kind === "steps" && state.steps) return state.step ? `Step ${state.step} of ${state.steps}` : `${state.steps} steps`;
  if (kind === "full") return `${state.steps || ""} steps done`.trim();
  return kind === "steps" ? "Starting" : "Waiting";
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

function renderProblem(problem) {
  const list = byId("errors");
  const told = (error) => problem.detail.includes(error.message);
  list.replaceChildren(
    ...(problem?.errors ?? []).filter((error) => !told(error)).map((error) => {
      const where = (error.pointer ?? "").replace(/^[#/]+/, "");
      const item = document.createElement("li");
      item.textContent = where ? `${where}: ${error.message}` : error.message;
      return item;
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
      const row = document.createElement("div");
      const term = Object.assign(document.createElement("dt"), { textContent: name });
      row.append(term, Object.assign(document.createElement("dd"), { textContent: value }));
      return row;
    }),
  );
}

function renderButtons(state, phase) {
  const shown = phase.buttons.filter((id) => id !== "again" || state.canRunAgain);
  for (const id of BUTTONS) byId(id).hidden = !shown.includes(id);
  byId("again").textContent = state.phase === "failed" ? "Try again" : "Run again";
}

const title = (state) => (state.problem?.title && state.phase === "failed" ? state.problem.title : PHASES[state.phase].title);

function detail(state) {
  if (state.problem) return state.problem.detail;
  if (state.attempt > 1 && state.phase === "running") return `A worker was lost; this is attempt ${state.attempt}.`;
  return state.phase === "succeeded" && !state.comparable ? "" : PHASES[state.phase].detail;
}

/** A screen reader hears phases and quarters of the way, not every step. */
function announcement(state) {
  if (state.offline !== null) return "Connection lost, trying again.";
  const quarter = Math.floor((state.value ?? 0) * 4) * 25;
  const along = state.phase === "running" && quarter > 0 && quarter < 100 ? `, ${quarter} % done` : "";
  return `${title(state)}${along}. ${state.problem?.detail ?? ""}`.trim();
}

function announce(text) {
  const node = byId("announcer");
  if (node.textContent !== text) node.textContent = text;
}

/** Shows the first screen. */
export function renderEmpty() {
  byId("main").dataset.view = "empty";
  byId("intake").hidden = false;
  byId("workspace").hidden = true;
  byId("settings").hidden = false;
  document.title = "InstantIR";
  announce("");
}

/** Shows one restoration. */
export function renderSession(state) {
  const phase = PHASES[state.phase];
  const arrived = byId("workspace").hidden;
  byId("main").dataset.view = state.phase;
  byId("intake").hidden = true;
  byId("workspace").hidden = false;
  byId("settings").hidden = !ENDED.has(state.phase) || !state.canRunAgain;
  byId("status-title").textContent = title(state);
  write("detail", detail(state));
  write("note", state.note);
  write("connection", state.offline === null ? "" : `Connection lost. Trying again${state.offline}`);
  renderProblem(state.problem);
  renderMeter(state, phase.bar);
  renderFacts(state.facts);
  renderButtons(state, phase);
  document.title = ENDED.has(state.phase) ? `${phase.title} · InstantIR` : progressTitle(state);
  announce(announcement(state));
  // Where the focused button has just gone, the keyboard would start over at the top of the page.
  if (arrived || document.activeElement === document.body) byId("status-title").focus({ preventScroll: !arrived });
}

const progressTitle = (state) =>
  state.value === null ? "InstantIR" : `${Math.round(state.value * 100)} % · InstantIR`;
