/** The page's two dialogs. Escape closes either one, which means no. */

const byId = (id) => document.getElementById(id);

/** Opens a dialog; resolves to the value of the button that closed it, "" for Escape. */
function opened(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}

/** Whether a restoration that is still going on may be stopped and removed. */
export async function confirmStop(name) {
  byId("confirm-why").textContent = `${name} is not finished yet.`;
  return (await opened(byId("confirm-dialog"))) === "yes";
}

/** The key that was typed in, or null. */
export async function askForKey(why, present) {
  byId("key-why").textContent = why;
  byId("key").value = present;
  const answer = opened(byId("key-dialog"));
  byId("key").select();
  return (await answer) === "use" ? byId("key").value.trim() : null;
}
