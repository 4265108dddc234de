/** Remembers sent pictures by job id, so that a reloaded page can still show the original. */

const DATABASE = "instantir";
const STORE = "sources";
const KEPT = 24;

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

function open() {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore(STORE, { keyPath: "id" }).createIndex("at", "at");
  };
  return done(request);
}

async function withStore(mode, use) {
  const database = await open();
  try {
    return await use(database.transaction(STORE, mode).objectStore(STORE));
  } finally {
    database.close();
  }
}

/** Keeps a source; full or forbidden storage costs no more than the view of the original. */
export async function remember(id, source) {
  try {
    await withStore("readwrite", async (store) => {
      await done(store.put({ ...source, id, at: Date.now() }));
      const newestLast = await done(store.index("at").getAllKeys());
      for (const old of newestLast.slice(0, -KEPT)) await done(store.delete(old));
    });
  } catch (error) {
    console.warn("The original will not survive a reload:", error);
  }
}

/** The source sent for a job, or null when this browser did not send it. */
export async function recall(id) {
  try {
    return (await withStore("readonly", (store) => done(store.get(id)))) ?? null;
  } catch {
    return null;
  }
}
