/** The API key: kept by this browser, asked for when the service wants one. */

import { askForKey } from "./dialogs.js";
import { load, save } from "./store.js";

let asking = null;
let refused = null;

export const key = () => load("key", "");

/** The same address with the key, for what can send no headers: a websocket, an <img>. */
export function withKey(url) {
  if (key()) url.searchParams.set("key", key());
  return url;
}

export const headers = () => (key() ? { Authorization: `Bearer ${key()}` } : {});

async function ask(why) {
  const given = await askForKey(why, key());
  if (given === null) return false;
  keep(given);
  return true;
}

function keep(given) {
  save("key", given || null);
  refused = null;
  showButton();
}

/** All who were refused wait for one answer. */
const askOnce = (why) => (asking ??= ask(why).finally(() => (asking = null)));

/**
 * After an answer that needs a key: whether it is worth another try. `sent` is the key that the
 * refused request carried; whoever said no to a question is not asked the same again by itself.
 */
export async function unlock(problem, sent) {
  if (problem.status !== 401 || problem.code !== "unauthorized") return false;
  if (sent !== key()) return true;
  if (refused === sent) return false;
  const why = sent ? "The service does not know this key." : "This service needs an API key.";
  const given = await askOnce(why);
  if (!given) refused = sent;
  return given;
}

/** Somebody acts again: the question may be asked again. */
export function mayAskAgain() {
  refused = null;
}

const button = () => document.getElementById("key-change");

function showButton() {
  button().hidden = key() === "";
}

export function offerKeyChange(changed) {
  showButton();
  button().addEventListener("click", async () => {
    if (await askOnce("The key that this browser sends.")) changed();
  });
}
