/** The HTTP calls of the service. Every failure is a Problem (RFC 9457 fields). */

import { headers, key, unlock, withKey } from "./access.js";

/** The page lives at the service's root and its modules under web/, also behind a path prefix. */
const ROOT = new URL("..", import.meta.url);

/** What went wrong, in the words of the server where it answered at all. */
export class Problem extends Error {
  constructor({ title, detail, code = "unknown", status = 0, retryable = false, ...more }) {
    super(detail || title);
    this.title = title;
    this.detail = detail || "";
    this.code = code;
    this.status = status;
    this.retryable = retryable;
    this.errors = more.errors ?? [];
    this.requestId = more.request_id ?? null;
  }

  static unreachable() {
    return new Problem({
      title: "The server cannot be reached",
      detail: "Check the connection and that the service is running.",
      code: "unreachable",
      retryable: true,
    });
  }

  /** Reads an error answer; a proxy in between may send one that is not JSON. */
  static fromText(text, status) {
    try {
      return new Problem({ status, title: `The server answered ${status}`, ...JSON.parse(text) });
    } catch {
      return new Problem({
        title: `The server answered ${status}`,
        code: "bad_answer",
        status,
        retryable: status >= 500,
      });
    }
  }
}

const jobUrl = (id, tail = "") => new URL(`restore/${encodeURIComponent(id)}${tail}`, ROOT);

/** Address of a file that ships with the page. */
export const assetUrl = (path) => new URL(`web/${path}`, ROOT);

/** Websocket address of a job's events with a seq above `after`. */
export function progressUrl(id, after) {
  const url = jobUrl(id, "/progress");
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.searchParams.set("starting_after", String(after));
  return withKey(url);
}

async function attempt(url, init) {
  const given = { ...headers(), ...init?.headers };
  try {
    return await fetch(url, { cache: "no-store", ...init, headers: given });
  } catch {
    throw Problem.unreachable();
  }
}

/** An answer that is fine, asking for a key where the service wants one. */
async function call(url, init) {
  for (;;) {
    const sent = key();
    const response = await attempt(url, init);
    if (response.ok) return response;
    const problem = Problem.fromText(await response.text(), response.status);
    if (!(await unlock(problem, sent))) throw problem;
  }
}

const post = { method: "POST" };
export const fetchJob = async (id, signal) => (await call(jobUrl(id), { signal })).json();
export const cancelJob = async (id) => (await call(jobUrl(id, "/cancel"), post)).json();

/** What a picture of this size would take if it were sent now. */
export async function estimate(width, height, options) {
  const answer = await call(new URL("restore/estimate", ROOT), {
    ...post,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ width, height, ...options }),
  });
  return answer.json();
}

/** Bytes of a file of the page or of a job's result, as a Blob. */
export async function fetchBlob(url) {
  const response = await call(url);
  try {
    return await response.blob();
  } catch {
    throw Problem.unreachable();
  }
}
export const fetchResult = (id) => fetchBlob(jobUrl(id, "/result"));

/** "ready", "starting" (no worker yet, or its store is away) or "unreachable". */
export async function readiness() {
  try {
    const response = await fetch(new URL("readyz", ROOT), { cache: "no-store" });
    return response.ok ? "ready" : "starting";
  } catch {
    return "unreachable";
  }
}

function sendOnce(form, onSent) {
  // XMLHttpRequest, since fetch cannot report how much has been sent.
  const request = new XMLHttpRequest();
  const job = new Promise((resolve, reject) => {
    const refuse = (text) => reject(Problem.fromText(text, request.status));
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) onSent(event.loaded / event.total);
    };
    request.onerror = () => reject(Problem.unreachable());
    request.onabort = () => reject(new Problem({ title: "Canceled", code: "canceled" }));
    request.onload = () => {
      if (request.status >= 400) {
        refuse(request.responseText);
        return;
      }
      try {
        resolve(JSON.parse(request.responseText));
      } catch {
        refuse("");
      }
    };
    request.open("POST", new URL("restore", ROOT));
    request.setRequestHeader("Accept", "application/json");
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.send(form);
  });
  return { job, abort: () => request.abort() };
}

/**
 * Submits a picture.
 * @returns {{job: Promise<object>, abort: () => void}}
 */
export function submit(picture, name, options, onSent) {
  const form = new FormData();
  form.append("image", picture, name);
  for (const [field, value] of Object.entries(options)) form.append(field, value);
  let current;
  const send = async () => {
    for (;;) {
      const sent = key();
      current = sendOnce(form, onSent);
      try {
        return await current.job;
      } catch (problem) {
        if (!(await unlock(problem, sent))) throw problem;
      }
    }
  };
  return { job: send(), abort: () => current.abort() };
}
