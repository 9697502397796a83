// Between the RGBA bytes of a canvas and the planes in [0, 1] that the network takes; see amd_restore/inference/planes.py.

import { area, bicubic, linear, resample } from "./resample.js";

const LUMA = [0.299, 0.587, 0.114]; // ITU-R BT.601
const MIN_SIDE = 8; // Smaller inputs are padded, because networks were not trained on them.

/** RGBA bytes, as ImageData has them. */
export interface Picture {
  width: number;
  height: number;
  data: Uint8ClampedArray;
}

/** Rows of a restoration; opaque ones come from a picture without transparency. */
export interface Rows extends Picture {
  isOpaque: boolean;
}

/** Colour of a picture as (3, height, width) in [0, 1], its border repeated up to the smallest size of the network. */
export class Planes {
  readonly height: number;
  readonly width: number;
  readonly isGray: boolean;
  private readonly colour: Float32Array;
  private readonly alpha: Float32Array | null;

  constructor(private readonly picture: Picture) {
    const { data, width, height } = picture;
    this.height = Math.max(height, MIN_SIDE);
    this.width = Math.max(width, MIN_SIDE);
    let isGray = true;
    let isOpaque = true;
    for (let i = 0; i < data.length && (isGray || isOpaque); i += 4) {
      // Pixels that nobody sees may have any colour.
      isGray &&= data[i + 3] === 0 || (data[i] === data[i + 1] && data[i] === data[i + 2]);
      isOpaque &&= data[i + 3] === 255;
    }
    this.isGray = isGray;
    this.alpha = isOpaque ? null : plane(data, 3);
    const colour = new Float32Array(3 * width * height);
    for (let c = 0; c < 3; c++) colour.set(plane(data, c), c * width * height);
    if (this.alpha) fillTransparent(colour, this.alpha, height, width);
    this.colour = padded(colour, height, width, this.height, this.width);
  }

  /** RGB of a window, (3, bottom - top, right - left). */
  window(top: number, bottom: number, left: number, right: number): Float32Array {
    const width = right - left;
    const out = new Float32Array(3 * (bottom - top) * width);
    let to = 0;
    for (let c = 0; c < 3; c++) {
      for (let y = top; y < bottom; y++, to += width) {
        const from = (c * this.height + y) * this.width;
        out.set(this.colour.subarray(from + left, from + right), to);
      }
    }
    return out;
  }

  /**
   * RGBA bytes of restored rows, cropped to the picture: its gray stays gray, its alpha is enlarged.
   *
   * `band` is (3, rows, scale * width) in any range; `top` is the first of these rows in the output.
   */
  rows(band: Float32Array, rows: number, top: number, scale: number): Rows {
    const stride = this.width * scale;
    const width = this.picture.width * scale;
    const height = Math.min(rows, this.picture.height * scale - top);
    const data = new Uint8ClampedArray(4 * Math.max(height, 0) * width).fill(255);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const from = y * stride + x;
        const to = 4 * (y * width + x);
        let gray = 0;
        for (let c = 0; c < 3; c++) {
          const value = Math.min(Math.max(band[c * rows * stride + from], 0), 1);
          gray += LUMA[c] * value;
          data[to + c] = 255 * value; // This array rounds, half to even, as NumPy's rint.
        }
        if (this.isGray) data[to] = data[to + 1] = data[to + 2] = 255 * gray;
      }
    }
    if (this.alpha && height > 0) this.addAlpha(data, top, height, scale);
    return { width, height, data, isOpaque: !this.alpha };
  }

  private addAlpha(data: Uint8ClampedArray, top: number, rows: number, scale: number): void {
    const { width, height } = this.picture;
    const margin = 4; // input pixels; bicubic interpolation reads two
    const first = Math.max(Math.floor(top / scale) - margin, 0);
    const last = Math.min(Math.ceil((top + rows) / scale) + margin, height);
    const strip = this.alpha!.subarray(first * width, last * width);
    const enlarged = resample(strip, 1, bicubic(last - first, scale), bicubic(width, scale));
    const offset = (top - first * scale) * width * scale;
    for (let i = 0; i < rows * width * scale; i++) data[4 * i + 3] = 255 * enlarged[offset + i];
  }
}

function plane(data: Uint8ClampedArray, channel: number): Float32Array {
  const out = new Float32Array(data.length / 4);
  for (let i = 0; i < out.length; i++) out[i] = data[4 * i + channel] / 255;
  return out;
}

function padded(planes: Float32Array, height: number, width: number, rows: number, columns: number): Float32Array {
  if (height === rows && width === columns) return planes;
  const out = new Float32Array(3 * rows * columns);
  for (let c = 0; c < 3; c++) {
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        const from = (c * height + Math.min(y, height - 1)) * width + Math.min(x, width - 1);
        out[(c * rows + y) * columns + x] = planes[from];
      }
    }
  }
  return out;
}

/**
 * Give fully transparent pixels the colour of their visible surroundings, in place.
 *
 * What is stored there is often black, and would bleed into the visible edge when enlarged.
 */
function fillTransparent(colour: Float32Array, alpha: Float32Array, height: number, width: number): void {
  if (alpha.every((a) => a > 0) || alpha.every((a) => a === 0)) return;
  const size = height * width;
  const weighted = new Float32Array(4 * size);
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) weighted[c * size + i] = colour[c * size + i] * alpha[i];
    weighted[3 * size + i] = alpha[i];
  }
  const filled = pullPush(weighted, height, width);
  for (let i = 0; i < size; i++) {
    if (alpha[i] > 0) continue;
    // In steps of 1/255, as the command keeps it.
    for (let c = 0; c < 3; c++) colour[c * size + i] = Math.round(255 * filled[c * size + i]) / 255;
  }
}

/** Fill what has no weight from the mean at half the size (Gortler et al. 1996): (4, h, w), weight last -> (3, h, w). */
function pullPush(weighted: Float32Array, height: number, width: number): Float32Array {
  const size = height * width;
  const weight = weighted.subarray(3 * size);
  const mean = new Float32Array(3 * size);
  for (let i = 0; i < 3 * size; i++) mean[i] = weighted[i] / Math.max(weight[i % size], 1e-6);
  if (weight.every((w) => w > 0) || Math.max(height, width) === 1) return mean;
  const [rows, columns] = [Math.ceil(height / 2), Math.ceil(width / 2)];
  const pulled = resample(weighted, 4, area(height, rows), area(width, columns));
  const pushed = resample(pullPush(pulled, rows, columns), 3, linear(rows, height), linear(columns, width));
  for (let i = 0; i < 3 * size; i++) if (weight[i % size] <= 0) mean[i] = pushed[i];
  return mean;
}
