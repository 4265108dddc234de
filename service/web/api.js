/** The HTTP calls of the service. Every failure is a Problem (RFC 9457 fields). */

/** The page lives at the service's root and its modules under web/, also behind a path prefix. */
const ROOT = new URL("..", import.meta.url);

/** What went wrong, in the words of the server where it answered at all. */
export class Problem extends Error {
  constructor({ title, detail, code = "unknown", status = 0, retryable = false, errors, request_id }) {
    super(detail || title);
    this.title = title;
    this.detail = detail || "";
    this.code = code;
    this.status = status;
    this.retryable = retryable;
    this.errors = errors ?? [];
    this.requestId = request_id ?? null;
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
  return url;
}

async function call(url, init) {
  let response;
  try {
    response = await fetch(url, { cache: "no-store", ...init });
  } catch {
    throw Problem.unreachable();
  }
  if (!response.ok) throw Problem.fromText(await response.text(), response.status);
  return response;
}

export const fetchJob = async (id) => (await call(jobUrl(id))).json();
export const cancelJob = async (id) => (await call(jobUrl(id, "/cancel"), { method: "POST" })).json();

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

/**
 * Submits a picture. XMLHttpRequest, since fetch cannot report how much has been sent.
 * @returns {{job: Promise<object>, abort: () => void}}
 */
export function submit(picture, name, options, onSent) {
  const form = new FormData();
  form.append("image", picture, name);
  for (const [key, value] of Object.entries(options)) form.append(key, value);
  const request = new XMLHttpRequest();
  const job = new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) onSent(event.loaded / event.total);
    };
    request.onerror = () => reject(Problem.unreachable());
    request.onload = () => {
      if (request.status >= 400) {
        reject(Problem.fromText(request.responseText, request.status));
        return;
      }
      try {
        resolve(JSON.parse(request.responseText));
      } catch {
        reject(Problem.fromText("", request.status));
      }
    };
    request.open("POST", new URL("restore", ROOT));
    request.setRequestHeader("Accept", "application/json");
    request.send(form);
  });
  return { job, abort: () => request.abort() };
}
