/** The ways a picture comes in: file dialog, drop anywhere on the page, paste, samples. */

import { assetUrl, fetchBlob } from "./api.js";

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

/** Clipboard pictures are all called image.png. */
const nameOf = (file, pasted) => (pasted || !file.name ? "picture.png" : file.name);

function acceptDrops(zone, accepts, onPicture) {
  let depth = 0;
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    zone.classList.toggle("over", depth > 0 && accepts());
  };
  document.addEventListener("dragenter", (event) => carriesFiles(event) && mark(1));
  document.addEventListener("dragleave", (event) => carriesFiles(event) && mark(-1));
  // Without preventDefault the browser would leave the page and open the file.
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = accepts() ? "copy" : "none";
  });
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    mark(-depth);
    const [file] = event.dataTransfer.files;
    if (file && accepts()) onPicture(file, nameOf(file, false));
  });
}

function acceptPastes(accepts, onPicture) {
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (!file || !accepts()) return;
    event.preventDefault();
    onPicture(file, nameOf(file, true));
  });
}

function acceptSamples(accepts, onPicture, onProblem) {
  for (const button of document.querySelectorAll("[data-sample]")) {
    button.addEventListener("click", async () => {
      try {
        const picture = await fetchBlob(assetUrl(`samples/${button.dataset.sample}`));
        if (accepts()) onPicture(picture, button.dataset.sample);
      } catch (problem) {
        onProblem(problem);
      }
    });
  }
}

/**
 * @param {() => boolean} accepts whether a new picture is welcome now
 * @param {(file: Blob, name: string) => void} onPicture
 * @param {(problem: Error) => void} onProblem a sample could not be fetched
 */
export function listen(accepts, onPicture, onProblem) {
  const zone = document.getElementById("drop");
  const input = document.getElementById("file");
  zone.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    const [file] = input.files;
    if (file) onPicture(file, nameOf(file, false));
    // So that the same file can be chosen twice in a row.
    input.value = "";
  });
  acceptDrops(zone, accepts, onPicture);
  acceptPastes(accepts, onPicture);
  acceptSamples(accepts, onPicture, onProblem);
}
