/** Pictures before the upload: their size, and a smaller copy where the server would refuse. */

import { Problem } from "./api.js";

/** What the service takes at most (its defaults). */
export const LIMITS = { pixels: 4_194_304, sidePx: 8192, bytes: 20 * 2 ** 20 };

/** What the service reads; a browser knows more, so other pictures go out as PNG. */
const SERVED = new Set(["image/jpeg", "image/png", "image/webp"]);

const number = new Intl.NumberFormat("en");

export const sizeText = (width, height) => `${width} × ${height} px`;

export function bytesText(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1_000_000) return `${Math.round(bytes / 1000)} kB`;
  return `${(bytes / 1_000_000).toFixed(1)} MB`;
}

/** Largest width and height of the same shape within the limits. */
export function fit(width, height) {
  const scale = Math.min(
    1,
    Math.sqrt(LIMITS.pixels / (width * height)),
    LIMITS.sidePx / Math.max(width, height),
  );
  return {
    width: Math.max(1, Math.floor(width * scale)),
    height: Math.max(1, Math.floor(height * scale)),
  };
}

/** Halves first: one big jump of the canvas filter would alias. */
function draw(bitmap, width, height) {
  let source = bitmap;
  while (source.width > 2 * width && source.height > 2 * height) {
    source = onCanvas(source, Math.ceil(source.width / 2), Math.ceil(source.height / 2));
  }
  return onCanvas(source, width, height);
}

function onCanvas(source, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  return canvas;
}

const encode = (canvas, type, quality) =>
  new Promise((resolve) => canvas.toBlob(resolve, type, quality));

async function encodeWithinLimit(canvas, type) {
  const first = await encode(canvas, type === "image/jpeg" ? type : "image/png", 0.95);
  if (first && first.size <= LIMITS.bytes) return first;
  return encode(canvas, "image/jpeg", 0.9);
}

function reductionNote(from, fileBytes, to, picture) {
  const sizes = `${sizeText(from.width, from.height)} to ${sizeText(to.width, to.height)}`;
  if (to.width === from.width && to.height === from.height) {
    if (fileBytes <= LIMITS.bytes) return "Sent as PNG: the server takes JPEG, PNG and WebP.";
    const sizes = `${bytesText(fileBytes)} to ${bytesText(picture.size)}`;
    return `Compressed from ${sizes} before the upload. ` +
      `The server takes at most ${LIMITS.bytes / 2 ** 20} MiB.`;
  }
  const long = Math.max(from.width, from.height) > LIMITS.sidePx;
  const limit = long && from.width * from.height <= LIMITS.pixels
    ? `${number.format(LIMITS.sidePx)} px a side`
    : `${number.format(LIMITS.pixels)} pixels`;
  return `Reduced from ${sizes} before the upload. The server takes at most ${limit}.`;
}

/**
 * Makes a file ready to send.
 * A file the browser cannot read goes out unchanged: the server says what is wrong with it.
 * @returns {Promise<{name: string, blob: Blob, width: ?number, height: ?number, note: ?string}>}
 */
export async function prepare(file, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    if (file.size > LIMITS.bytes) {
      throw new Problem({
        title: "The file is too large",
        detail: `${name} has ${bytesText(file.size)} and this browser cannot make it smaller. ` +
          `The server takes at most ${LIMITS.bytes / 2 ** 20} MiB.`,
        code: "image_too_large",
      });
    }
    return { name, blob: file, width: null, height: null, note: null };
  }
  const from = { width: bitmap.width, height: bitmap.height };
  const to = fit(from.width, from.height);
  const fits = to.width === from.width && to.height === from.height && file.size <= LIMITS.bytes;
  if (fits && SERVED.has(file.type)) {
    bitmap.close();
    return { name, blob: file, ...from, note: null };
  }
  const blob = await encodeWithinLimit(draw(bitmap, to.width, to.height), file.type);
  bitmap.close();
  return { name, blob, ...to, note: reductionNote(from, file.size, to, blob) };
}

const THUMB_PX = 112;

/** A picture as a small data: URL, cut to a square; "" where this browser cannot read it. */
export async function thumbnail(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    return "";
  }
  const side = Math.min(bitmap.width, bitmap.height);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = THUMB_PX;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  context.drawImage(bitmap, left, top, side, side, 0, 0, THUMB_PX, THUMB_PX);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", 0.72);
}

const EXTENSIONS = {
  "image/png": "png",
  "image/jpeg": "jpg",
  "image/webp": "webp",
  "image/avif": "avif",
};

/** File name for a result: the upload's stem, what was done, and the ending of its real type. */
export function resultName(name, contentType) {
  const stem = name.replace(/\.[^.]*$/, "") || "picture";
  return `${stem}-restored.${EXTENSIONS[contentType] ?? "png"}`;
}
