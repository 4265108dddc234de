/** The jobs that this browser has sent, newest first: {id, name, at, phase, thumb}. */

import { load, onChange, save } from "./store.js";

const NAME = "jobs";
const KEPT = 30;

export const jobs = () => load(NAME, []);

/** Adds a job or changes what is known of it. */
export function note(id, changes) {
  const known = jobs();
  const found = known.find((job) => job.id === id);
  if (found) Object.assign(found, changes);
  else known.unshift({ id, name: "picture.png", at: Date.now(), thumb: "", ...changes });
  save(NAME, known.slice(0, KEPT));
}

export const has = (id) => jobs().some((job) => job.id === id);

export function forget(id) {
  save(NAME, jobs().filter((job) => job.id !== id));
}

export const onOtherTab = (changed) => onChange(NAME, changed);
