// Files of the visitor: decoding, encoding, names.

import type { Rows } from "./planes.js";

const MAX_PIXELS = 4e6; // of the input; its restoration has 16 times as many, of four bytes
const WEBP_QUALITY = 0.92;
const NO_MEMORY = "this browser has no memory for the result; try a smaller picture";

/** Picture of a file, upright and in sRGB. Throws what the page says about a file that cannot be restored. */
export async function decode(file: Blob): Promise<ImageBitmap> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", premultiplyAlpha: "none" });
  } catch {
    throw new Error("no picture that this browser can read");
  }
  if (bitmap.width * bitmap.height > MAX_PIXELS) {
    const megapixels = ((bitmap.width * bitmap.height) / 1e6).toFixed(1);
    bitmap.close();
    throw new Error(`${megapixels} megapixels; at most ${MAX_PIXELS / 1e6} can be restored here`);
  }
  return bitmap;
}

/** Put rows of a restoration into a canvas of its size. */
export function paint(canvas: HTMLCanvasElement, rows: Rows, top: number): void {
  // A PNG of an opaque canvas has no alpha, as the input had none; Chromium keeps to that for canvases of the page only.
  const context = canvas.getContext("2d", { alpha: !rows.isOpaque });
  if (!context) throw new Error(NO_MEMORY);
  context.putImageData(new ImageData(rows.data as Uint8ClampedArray<ArrayBuffer>, rows.width, rows.height), 0, top);
}

/** PNG of a canvas. */
export async function encode(canvas: HTMLCanvasElement): Promise<Blob> {
  const png = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!png) throw new Error(NO_MEMORY);
  return png;
}

/** WebP of a PNG; a PNG again in browsers that write no WebP. */
export async function asWebp(png: Blob): Promise<Blob> {
  const bitmap = await createImageBitmap(png);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/webp", quality: WEBP_QUALITY });
}

/** Save under the name of the input, with the scale and the suffix of the content. */
export function download(content: Blob, inputName: string, scale: number): void {
  const stem = inputName.replace(/\.[^.]*$/, "") || "picture";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = `${stem}_x${scale}.${content.type === "image/webp" ? "webp" : "png"}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // when the browser has surely read it
}
