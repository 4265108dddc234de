/** Small values that survive a reload. Without storage they last as long as the page. */

const PREFIX = "instantir.";
const unsaved = new Map();

/** What was kept under a name, or `otherwise`. */
export function load(name, otherwise) {
  if (unsaved.has(name)) return unsaved.get(name);
  try {
    return JSON.parse(localStorage.getItem(PREFIX + name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Keeps a value; null forgets it. */
export function save(name, value) {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, JSON.stringify(value));
    unsaved.delete(name);
  } catch {
    unsaved.set(name, value);
  }
}

/** Calls back when another tab has changed the value. */
export function onChange(name, changed) {
  window.addEventListener("storage", (event) => event.key === PREFIX + name && changed());
}
