/** One restoration as the page sees it: upload, follow, fetch, and the state that is shown. */

import { Problem, cancelJob, fetchJob, fetchResult, submit } from "./api.js";
import { recall, remember } from "./memory.js";
import { Pictures } from "./pictures.js";
import { bytesText, sizeText } from "./picture.js";
import { JobFollower } from "./progress.js";

const firstState = () => ({
  phase: "connecting",
  sent: null,
  value: null,
  step: 0,
  steps: 0,
  stage: "",
  attempt: 1,
  eta: null,
  offline: null,
  problem: null,
  note: null,
  facts: [],
  comparable: false,
  canRunAgain: false,
});

/** Problems that sending the same picture again cannot cure. */
const REFUSED = new Set(["invalid_image", "unsupported_image", "image_too_large"]);
const STATUS_PHASES = { queued: "queued", running: "running", canceling: "canceling" };
/** Followers are told that the log has lost events; the status comes next, so nothing is wrong. */
const REPLAY_GAP = "replay_gap";

function resultFacts(job, seconds) {
  const used = { ...job.options, ...job.resolved };
  const { output } = job;
  const type = output.content_type.replace("image/", "").toUpperCase();
  const facts = [
    ["Size", sizeText(output.width, output.height)],
    ["File", `${type}, ${bytesText(output.bytes)}`],
    ["Steps", used.steps],
    ["Preset", used.preset],
    ["Prompt", used.prompt || null],
    ["Seed", used.seed],
    ["Model", job.model],
    ["Time", seconds === null ? null : `${seconds.toFixed(1)} s`],
    ["Made", job.cached ? "for an equal request before" : null],
  ];
  return facts.filter(([, value]) => value !== null && value !== undefined);
}

/** When a job will end, as it was foretold now. */
const foretold = ({ position = null, low_s: low, likely_s: likely, high_s: high }) => ({
  position,
  times: likely === undefined ? null : { low, likely, high },
  at: performance.now(),
});

/**
 * Calls `on.change(session)` after every change of the state, `on.pictures(session)` when there is
 * a new one, `on.numbers(session)` after a step, and `on.job(session)` once the server has it.
 */
export class Session {
  constructor(key, name, on) {
    this.key = key;
    this.name = name;
    this.on = on;
    this.id = null;
    this.source = null;
    this.options = {};
    this.startedAt = null;
    this.ended = false;
    this.left = false;
    this.state = firstState();
    this.pictures = new Pictures();
    this.numbers = new Map();
  }

  set(changes) {
    if (this.left) return;
    Object.assign(this.state, changes);
    this.on.change(this);
  }

  own(source) {
    this.source = source;
    this.name = source.name;
    if (source.width !== null) this.pictures.setOriginal(source.blob);
    this.on.pictures(this);
  }

  /** Takes a picture that is ready; `send` follows when its turn has come. */
  queue(source, options) {
    this.options = options;
    this.own(source);
    this.set({ phase: "uploading", note: source.note, canRunAgain: true });
  }

  async send() {
    if (this.left || this.ended) return;
    const { source, options } = this;
    try {
      this.upload = submit(source.blob, source.name, options, (sent) => this.set({ sent }));
      const job = await this.upload.job;
      if (this.left || this.ended) return;
      await remember(job.id, { name: source.name, ...picked(source), options });
      this.foretell({ position: job.position, ...job.eta });
      this.follow(job.id);
      this.on.job(this);
    } catch (problem) {
      this.fail(problem);
    }
  }

  /** Picks up a job that was sent earlier. */
  async attach(id) {
    this.id = id;
    this.set({ phase: "connecting" });
    const source = await recall(id);
    if (this.left) return;
    if (source) {
      this.options = source.options ?? {};
      this.own(source);
      this.set({ note: source.note, canRunAgain: true });
    }
    this.follow(id);
  }

  follow(id) {
    if (this.left) return;
    this.id = id;
    if (this.state.phase === "uploading") this.set({ phase: "queued" });
    this.follower = new JobFollower(id, {
      event: (event) => this.received(event),
      preview: (meta, picture) => this.previewed(meta, picture),
      offline: (wait) => this.set({ offline: { until: performance.now() + wait } }),
      online: () => this.set({ offline: null }),
      gone: () => this.end("gone"),
      refused: (problem) => this.fail(problem),
    });
  }

  reconnect() {
    this.follower?.connect();
  }

  received(event) {
    const handle = {
      status: () => this.moved(event),
      progress: () => this.progressed(event),
      eta: () => this.foretell(event),
      error: () => this.refused(event),
    }[event.type];
    handle?.();
  }

  refused(event) {
    if (event.code === REPLAY_GAP) return;
    const title = "The restoration failed";
    this.set({ problem: new Problem({ title, detail: event.message, ...event }) });
  }

  foretell(event) {
    this.set({ eta: foretold(event) });
  }

  moved({ status, attempt, at }) {
    if (status === "running") {
      this.startedAt = at ?? this.startedAt;
      this.numbers.clear();
      this.set({ phase: "running", attempt, step: 0, value: null, problem: null });
      this.on.numbers(this);
    } else if (status === "succeeded") {
      this.collect(at);
    } else if (status in STATUS_PHASES) {
      this.set({ phase: STATUS_PHASES[status], value: null, step: 0 });
    } else {
      this.end(status);
    }
  }

  progressed(event) {
    const { value, step, steps, stage } = event;
    const phase = this.state.phase === "canceling" ? "canceling" : "running";
    this.set({ phase, value, step, steps, stage });
    const { reference_variance: variance = null, adaptive_factor: factor = null } = event;
    // Stages before and after the steps are told as progress too, without numbers of their own.
    if (step < 1 || (variance === null && factor === null)) return;
    this.numbers.set(step, { variance, factor });
    this.on.numbers(this);
  }

  previewed(meta, picture) {
    if (this.left) return;
    this.pictures.addFrame(meta, picture);
    this.on.pictures(this);
  }

  async collect(finishedAt) {
    this.follower?.close();
    this.set({ phase: "fetching", offline: null });
    try {
      const [job, result] = await Promise.all([fetchJob(this.id), fetchResult(this.id)]);
      if (this.left) return;
      this.pictures.setResult(result);
      const known = this.startedAt !== null && finishedAt !== undefined;
      const seconds = known ? finishedAt - this.startedAt : null;
      const comparable = this.pictures.original !== null;
      this.end("succeeded", { facts: resultFacts(job, seconds), comparable });
      this.on.pictures(this);
    } catch (problem) {
      if (problem.status === 410 || problem.status === 404) this.end("gone");
      else this.fail(problem);
    }
  }

  /** Stops an upload at once, a job at its next step. */
  async cancel() {
    if (this.id === null) {
      this.upload?.abort();
      this.end("canceled");
      return;
    }
    const { phase } = this.state;
    this.set({ phase: "canceling" });
    try {
      await cancelJob(this.id);
    } catch (problem) {
      if (!this.ended) this.set({ phase, note: problem.title });
    }
  }

  /** Everything that is no Problem is a fault of this page, shown rather than swallowed. */
  fail(error) {
    const known = error instanceof Problem;
    if (!known) console.error(error);
    const title = "The page failed";
    const problem = known ? error : new Problem({ title, detail: String(error) });
    const worthAnother = this.source !== null || problem.code === "unreachable";
    this.end("failed", { problem, canRunAgain: worthAnother && !REFUSED.has(problem.code) });
  }

  end(phase, changes = {}) {
    if (this.ended) return;
    this.ended = true;
    this.follower?.close();
    this.set({ phase, offline: null, eta: null, ...changes });
  }

  /** The page forgets this one; the job itself goes on. */
  leave() {
    this.left = true;
    this.follower?.close();
    if (this.id === null) this.upload?.abort();
    this.pictures.release();
  }
}

/** What of a source outlives the page; an object URL does not. */
function picked({ blob, width, height, note }) {
  return { blob, width, height, note };
}
