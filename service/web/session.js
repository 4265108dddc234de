/** One restoration as the page sees it: upload, follow, fetch, and the state that the view shows. */

import { Problem, cancelJob, fetchJob, fetchResult, submit } from "./api.js";
import { recall, remember } from "./memory.js";
import { bytesText, prepare, sizeText } from "./picture.js";
import { JobFollower } from "./progress.js";

const firstState = () => ({
  phase: "preparing",
  sent: null,
  value: null,
  step: 0,
  steps: 0,
  stage: "",
  attempt: 1,
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

function resultFacts(job, seconds) {
  const used = { ...job.options, ...job.resolved };
  const facts = [
    ["Size", sizeText(job.output.width, job.output.height)],
    ["File", `${job.output.content_type.replace("image/", "").toUpperCase()}, ${bytesText(job.output.bytes)}`],
    ["Steps", used.steps],
    ["Preset", used.preset],
    ["Seed", used.seed],
    ["Model", job.model],
    ["Time", seconds === null ? null : `${seconds.toFixed(1)} s`],
  ];
  return facts.filter(([, value]) => value !== null && value !== undefined);
}

/**
 * Calls `on.change(state)` after every change, `on.picture(blob)` with the original, `on.preview`,
 * `on.progress`, `on.result(blob, original, name)` and `on.job(id)` once the server has taken it.
 */
export class Session {
  constructor(on) {
    this.on = on;
    this.id = null;
    this.source = null;
    this.startedAt = null;
    this.ended = false;
    this.left = false;
    this.state = firstState();
  }

  set(changes) {
    if (this.left) return;
    Object.assign(this.state, changes);
    this.on.change(this.state);
  }

  /** Sends a new picture. */
  async send(file, name, options) {
    this.set({});
    try {
      await this.restart(await prepare(file, name), options);
    } catch (problem) {
      this.fail(problem);
    }
  }

  /** Sends a picture that is ready: the first time, or once more with other settings. */
  async restart(source, options) {
    if (this.left) return;
    this.source = source;
    this.on.picture(source.blob);
    this.set({ phase: "uploading", note: source.note, canRunAgain: true });
    try {
      this.upload = submit(source.blob, source.name, options, (sent) => this.set({ sent }));
      const job = await this.upload.job;
      if (this.left) return;
      await remember(job.id, source);
      this.follow(job.id);
      this.on.job(job.id);
    } catch (problem) {
      this.fail(problem);
    }
  }

  /** Picks up a job that was sent earlier. */
  async attach(id) {
    this.set({ phase: "connecting" });
    const source = await recall(id);
    if (this.left) return;
    if (source) {
      this.source = source;
      this.on.picture(source.blob);
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
      preview: (meta, picture) => this.on.preview(meta, picture),
      offline: (wait) => this.set({ offline: wait < 1500 ? " now." : ` in ${Math.round(wait / 1000)} s.` }),
      online: () => this.set({ offline: null }),
      gone: () => this.end("gone"),
    });
  }

  received(event) {
    const handle = {
      status: () => this.moved(event),
      progress: () => this.progressed(event),
      error: () => this.set({ problem: new Problem({ title: "The restoration failed", detail: event.message, ...event }) }),
    }[event.type];
    handle?.();
  }

  moved({ status, attempt, at }) {
    if (status === "running") {
      this.startedAt = at;
      this.set({ phase: "running", attempt, step: 0, value: null, problem: null });
    } else if (status === "succeeded") {
      this.collect(at);
    } else if (status in STATUS_PHASES) {
      this.set({ phase: STATUS_PHASES[status] });
    } else {
      this.end(status);
    }
  }

  progressed(event) {
    const { value, step, steps, stage } = event;
    this.set({ value, step, steps, stage });
    this.on.progress(event);
  }

  async collect(finishedAt) {
    const { follower } = this;
    follower?.close();
    this.set({ phase: "fetching", offline: null });
    try {
      const [job, result] = await Promise.all([fetchJob(this.id), fetchResult(this.id)]);
      if (this.left) return;
      const seconds = this.startedAt === null ? null : finishedAt - this.startedAt;
      const name = this.source?.name ?? "picture.png";
      const comparable = await this.on.result(result, this.source?.blob ?? null, name);
      this.end("succeeded", { facts: resultFacts(job, seconds), comparable });
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
    this.set({ phase: "canceling" });
    try {
      await cancelJob(this.id);
    } catch (problem) {
      if (!this.ended) this.set({ phase: "running", offline: `: ${problem.title}.` });
    }
  }

  /** Everything that is no Problem is a fault of this page, shown rather than swallowed. */
  fail(error) {
    const known = error instanceof Problem;
    if (!known) console.error(error);
    const problem = known ? error : new Problem({ title: "The page failed", detail: String(error) });
    const worthAnother = this.source !== null || problem.code === "unreachable";
    this.end("failed", { problem, canRunAgain: worthAnother && !REFUSED.has(problem.code) });
  }

  end(phase, changes = {}) {
    if (this.ended) return;
    this.ended = true;
    this.follower?.close();
    this.set({ phase, offline: null, ...changes });
  }

  /** The page shows something else from now on; the job itself goes on. */
  leave() {
    this.left = true;
    this.follower?.close();
    if (this.id === null) this.upload?.abort();
  }
}
