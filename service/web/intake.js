/** The ways pictures come in: file dialog, drop anywhere on the page, paste, samples. */

import { assetUrl, fetchBlob } from "./api.js";

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

/** Clipboard pictures are all called image.png. */
const named = (file) => ({ file, name: file.name || "picture.png" });
const pasted = (file) => ({ file, name: "pasted.png" });
const isAsking = () => document.querySelector("dialog[open]") !== null;

function acceptDrops(zone, onPictures) {
  let depth = 0;
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    zone.classList.toggle("over", depth > 0);
    document.body.classList.toggle("dropping", depth > 0);
  };
  document.addEventListener("dragenter", (event) => carriesFiles(event) && mark(1));
  document.addEventListener("dragleave", (event) => carriesFiles(event) && mark(-1));
  // Without preventDefault the browser would leave the page and open the file.
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    mark(-depth);
    const files = [...event.dataTransfer.files];
    if (files.length > 0 && !isAsking()) onPictures(files.map(named));
  });
}

function acceptPastes(onPictures) {
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length === 0 || isAsking()) return;
    event.preventDefault();
    onPictures(files.map(pasted));
  });
}

function acceptSamples(onPictures, onProblem) {
  for (const button of document.querySelectorAll("[data-sample]")) {
    button.addEventListener("click", async () => {
      const name = button.dataset.sample;
      try {
        onPictures([{ file: await fetchBlob(assetUrl(`samples/${name}`)), name }]);
      } catch (problem) {
        onProblem(problem);
      }
    });
  }
}

/**
 * @param {(pictures: {file: Blob, name: string}[]) => void} onPictures
 * @param {(problem: Error) => void} onProblem a sample could not be fetched
 */
export function listen(onPictures, onProblem) {
  const zone = document.getElementById("drop");
  const input = document.getElementById("file");
  zone.addEventListener("click", () => input.click());
  document.getElementById("more").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    const files = [...input.files];
    // So that the same file can be chosen twice in a row.
    input.value = "";
    if (files.length > 0) onPictures(files.map(named));
  });
  acceptDrops(zone, onPictures);
  acceptPastes(onPictures);
  acceptSamples(onPictures, onProblem);
}
