// Pixels of a decoded picture, in a worker.

import type { Picture } from "./planes.js";

/** RGBA bytes of a bitmap that was decoded with its colours not multiplied by alpha. */
export function pixelsOf(bitmap: ImageBitmap): Picture {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("this browser has no memory for the picture");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const isTranslucent = data.some((value, i) => i % 4 === 3 && value > 0 && value < 255);
  return { width, height, data: (isTranslucent && unmultiplied(bitmap)) || data };
}

/**
 * The same through WebGL; null where there is none or the picture is too large for it.
 *
 * A canvas keeps colours multiplied by alpha in 8 bits, so that little is left of the colours of translucent pixels, and the
 * network makes the error larger.
 */
function unmultiplied(bitmap: ImageBitmap): Uint8ClampedArray | null {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  const data = new Uint8ClampedArray(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(data.buffer));
  const isRight = gl.getError() === gl.NO_ERROR;
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // frees its memory now
  return isRight ? data : null;
}
