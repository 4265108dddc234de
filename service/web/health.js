/** The notice above the page while the service is starting or out of reach. */

import { readiness } from "./api.js";

const AGAIN_MS = 3000;
const TEXTS = {
  ready: "",
  starting: "The model is still loading. Pictures sent now wait in the queue.",
  unreachable: "The server cannot be reached. Trying again.",
};

/** Asks until the service is ready, then stays quiet: a running job reports its own breaks. */
export async function watchHealth(notice) {
  const state = await readiness();
  notice.textContent = TEXTS[state];
  notice.hidden = state === "ready";
  notice.dataset.state = state;
  if (state !== "ready") setTimeout(() => watchHealth(notice), AGAIN_MS);
}
