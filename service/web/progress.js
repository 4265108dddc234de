/** Follows one job over its websocket; after a break it asks for what it missed. */

import { fetchJob, progressUrl } from "./api.js";

const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 10_000;
/** A half-open connection gives no sign: after this long without a frame, connect anew. */
const SILENCE_MS = 30_000;
/** How long the job's own address may take to answer after a break. */
const ASK_MS = 10_000;
const UNKNOWN_JOB = 4404;
const PREVIEW_WITH_METADATA = 4;

export const TERMINAL = new Set(["succeeded", "failed", "canceled", "expired"]);

/**
 * Reads a binary frame: uint32 type, uint32 length, JSON of that length, picture bytes; integers
 * are big-endian.
 * @returns {{meta: object, picture: Blob} | null} null for a type this page does not know
 */
export function decodeFrame(buffer) {
  const view = new DataView(buffer);
  if (view.byteLength < 8 || view.getUint32(0) !== PREVIEW_WITH_METADATA) return null;
  const length = view.getUint32(4);
  const meta = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const picture = new Blob([new Uint8Array(buffer, 8 + length)], { type: meta.image_type });
  return { meta, picture };
}

/** How long to wait before try number `tries` (0 = first), with jitter to spread clients out. */
function retryDelay(tries) {
  const ceiling = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** tries);
  return ceiling * (0.75 + Math.random() / 4);
}

/**
 * Calls back: event(dict), preview(meta, blob), offline(waitMs), online(), gone(), and
 * refused(problem) where a key is needed and there is none.
 */
export class JobFollower {
  constructor(id, callbacks) {
    this.id = id;
    this.callbacks = callbacks;
    this.after = 0;
    this.tries = 0;
    this.over = false;
    this.onNetwork = () => this.connect();
    window.addEventListener("online", this.onNetwork);
    this.connect();
  }

  /** Stops following; the job itself goes on. */
  close() {
    this.over = true;
    clearTimeout(this.timer);
    window.removeEventListener("online", this.onNetwork);
    this.drop();
  }

  drop() {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  connect() {
    if (this.over) return;
    clearTimeout(this.timer);
    this.drop();
    const socket = new WebSocket(progressUrl(this.id, this.after));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.isCurrent(socket) && this.opened();
    socket.onmessage = (message) => this.isCurrent(socket) && this.received(message.data);
    socket.onclose = (event) => this.isCurrent(socket) && this.broken(event.code);
    this.socket = socket;
    this.watch();
  }

  isCurrent(socket) {
    return !this.over && this.socket === socket;
  }

  watch() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.connect(), SILENCE_MS);
  }

  opened() {
    this.callbacks.online();
    this.watch();
  }

  received(data) {
    this.tries = 0;
    this.watch();
    if (data instanceof ArrayBuffer) {
      const frame = decodeFrame(data);
      if (!frame) return;
      this.after = Math.max(this.after, frame.meta.seq);
      this.callbacks.preview(frame.meta, frame.picture);
      return;
    }
    const event = JSON.parse(data);
    const last = event.type === "status" && TERMINAL.has(event.status);
    // A replay may overlap what was seen before the break; how a job ended always counts. What has
    // no number is told live and never again.
    if (event.seq !== undefined) {
      if (event.seq <= this.after && !last) return;
      this.after = Math.max(this.after, event.seq);
    }
    if (last) this.close();
    this.callbacks.event(event);
  }

  async broken(code) {
    clearTimeout(this.timer);
    this.socket = null;
    const unknown = code === UNKNOWN_JOB;
    if (!unknown) this.callbacks.offline(0);
    const end = unknown ? () => this.callbacks.gone() : await this.reasonToStop();
    if (this.over || this.socket) return;
    if (end) {
      this.close();
      end();
      return;
    }
    const wait = retryDelay(this.tries);
    this.tries += 1;
    this.callbacks.offline(wait);
    this.timer = setTimeout(() => this.connect(), wait);
  }

  /** A socket refused before it opened shows no close code, so the job's own address is asked. */
  async reasonToStop() {
    try {
      await fetchJob(this.id, AbortSignal.timeout(ASK_MS));
      return null;
    } catch (problem) {
      if (problem.status === 404) return () => this.callbacks.gone();
      return problem.status === 401 ? () => this.callbacks.refused(problem) : null;
    }
  }
}
