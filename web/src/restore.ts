// From a picture to its restored rows: codec, sampler, fidelity and tiles, as amd_restore/diffusion and
// amd_restore/inference have them, for the models of make_models.py.

import { fieldNoise } from "./noise.js";
import { type Picture, Planes, type Rows } from "./planes.js";
import { bicubic, resample } from "./resample.js";
import { blendWeights, blendWidth, planAxis } from "./tiles.js";

/** What make_models.py writes about a model. */
export interface Header {
  scale: number;
  std: number; // standard deviation of the residual, for a pixel in [0, 1]
  steps: number[];
  defaultSteps: number;
  sampler: string;
  timeShift: number;
  mean: string; // model that predicts the mean, for fidelity; empty if the network does so without noise
  reach: number; // input pixels on which a result depends, for one step
  bytes: number; // size of the graph
  check: number[]; // first numbers that the network predicts for fixed noise, see make_models.py
}

/** One prediction of a network for a window of height x width: raw = network(x_t, t, cond), planes one after the other. */
export type Network = (x: Float32Array, t: number, cond: Float32Array, h: number, w: number) => Promise<Float32Array>;

export interface Model {
  header: Header;
  network: Network;
}

export interface Options {
  steps: number;
  seed: number;
  fidelity: number; // from 0, most detail, to 1, most faithful
  tile: number; // largest side of a tile in input pixels, without halo; 0 for no tiles
  halo: number; // margin of a tile that is taken unless the network's reach is less
}

interface Place {
  top: number;
  left: number;
  height: number;
  width: number;
}

const LQ_MEAN = 0.45; // They bring the condition to unit scale, as in amd_restore/diffusion/codec.py.
const LQ_STD = 0.25;
const ADVICE = ": this device computes wrong numbers; try another browser";
const BLACK = 0.5 / 255; // as in amd_restore/inference/flaws.py
const BRIGHT = 8 / 255; // Night skies may become black: noise is taken from them. An image of this mean must not.

/**
 * Restore a picture.
 *
 * `mean` is the model of the header's `mean`, needed for a fidelity above 0. `onRows` gets finished rows, and the first
 * of them in the output; `onTile` the number of finished tiles, and of all.
 */
export async function restore(
  picture: Picture, model: Model, mean: Model | null, options: Options,
  onRows: (rows: Rows, top: number) => void, onTile: (done: number, total: number) => void,
): Promise<void> {
  const { scale } = model.header;
  const planes = new Planes(picture);
  const reach = model.header.reach * options.steps;
  const halo = Math.min(reach, options.halo);
  const blend = blendWidth(halo, Math.max(reach, options.fidelity > 0 && mean ? mean.header.reach : 0));
  const tile = options.tile || Math.max(planes.height, planes.width);
  const [rows, columns] = [planAxis(planes.height, tile, halo), planAxis(planes.width, tile, halo)];
  const [rowWeights, columnWeights] = [blendWeights(rows, blend, scale), blendWeights(columns, blend, scale)];
  const stride = planes.width * scale;
  let finished = 0; // rows of the input whose output nothing will change
  let pending = new Float32Array(0); // (3, n, stride), the rows after those, to which tiles will still add
  for (const [i, row] of rows.entries()) {
    // Beyond the blend a tile has no weight.
    const bottom = Math.min(row.stop + blend, row.outerStop);
    const height = (bottom - finished) * scale;
    const band = new Float32Array(3 * height * stride);
    copyRows(pending, pending.length / (3 * stride), 0, band, height, stride);
    for (const [j, column] of columns.entries()) {
      const place = {
        top: row.outerStart, left: column.outerStart,
        height: row.outerStop - row.outerStart, width: column.outerStop - column.outerStart,
      };
      const window = planes.window(row.outerStart, row.outerStop, column.outerStart, column.outerStop);
      const restored = await restoreWindow(window, place, model, mean, options);
      check(restored, window);
      const top = (row.outerStart - finished) * scale;
      add(restored, rowWeights[i], columnWeights[j], band, height, stride, top, column.outerStart * scale);
      onTile(i * columns.length + j + 1, rows.length * columns.length);
    }
    const complete = i + 1 === rows.length ? bottom : Math.max(rows[i + 1].start - blend, 0);
    const cut = (complete - finished) * scale;
    const done = new Float32Array(3 * cut * stride);
    copyRows(band, height, 0, done, cut, stride);
    const image = planes.rows(done, cut, finished * scale, scale);
    if (image.height > 0) onRows(image, finished * scale);
    pending = new Float32Array(3 * (height - cut) * stride);
    copyRows(band, height, cut, pending, height - cut, stride);
    finished = complete;
  }
}

/** Restored window, (3, scale * height, scale * width), not clamped. */
async function restoreWindow(
  lq: Float32Array, place: Place, model: Model, mean: Model | null, options: Options,
): Promise<Float32Array> {
  const { fidelity, seed, steps } = options;
  const { scale } = model.header;
  const enlarged = resample(lq, 3, bicubic(place.height, scale), bicubic(place.width, scale));
  if (fidelity === 0) return decode(await sample(lq, place, model, steps, seed), enlarged, place, model.header);
  if (!mean) throw new Error("a fidelity above 0 needs the model of the mean");
  const faithful = decode(await sample(lq, place, mean, 1, null), enlarged, place, mean.header);
  if (fidelity === 1) return faithful;
  const detailed = decode(await sample(lq, place, model, steps, seed), enlarged, place, model.header);
  return detailed.map((value, i) => value + fidelity * (faithful[i] - value));
}

/** Latent (3 scale^2, height, width) of a window, by `steps` predictions; without a seed there is no noise. */
async function sample(
  lq: Float32Array, place: Place, model: Model, steps: number, seed: number | null,
): Promise<Float32Array> {
  const { header, network } = model;
  const channels = 3 * header.scale ** 2;
  const noise = (step: number): Float32Array =>
    seed === null
      ? new Float32Array(channels * place.height * place.width)
      : fieldNoise(seed, channels, place, step);
  const cond = lq.map((value) => (value - LQ_MEAN) / LQ_STD);
  const times = schedule(steps, header.timeShift);
  let x = noise(0);
  for (let step = 1; step <= steps; step++) {
    const [t, s] = [times[step - 1], times[step]];
    // Rectified flow: x_t = (1 - t) x0 + t noise; the network takes x_t at unit variance and predicts v.
    const unit = 1 / Math.sqrt((1 - t) ** 2 + t ** 2);
    const raw = await network(unit === 1 ? x : x.map((value) => value * unit), t, cond, place.height, place.width);
    const x0 = x.map((value, i) => (1 - t) * unit * unit * value - t * unit * raw[i]);
    if (s === 0) return x0;
    if (header.sampler === "renoise") {
      const fresh = noise(step);
      x = x0.map((value, i) => (1 - s) * value + s * fresh[i]);
    } else {
      // Deterministic: the noise that leads from x0 to x_t, t > 0.
      x = x0.map((value, i) => (1 - s) * value + (s * (x[i] - (1 - t) * value)) / t);
    }
  }
  return x;
}

/** Times from 1 down to 0, moved towards the image by a `shift` below 1. */
function schedule(steps: number, shift: number): number[] {
  return Array.from({ length: steps + 1 }, (_, i) => {
    const t = 1 - i / steps;
    return (shift * t) / (1 - t + shift * t);
  });
}

/** Enlarged input plus the latent's residual: channel c * scale^2 + dy * scale + dx is pixel (dy, dx) of a cell. */
function decode(x0: Float32Array, enlarged: Float32Array, place: Place, header: Header): Float32Array {
  const { scale, std } = header;
  const { height, width } = place;
  const out = Float32Array.from(enlarged);
  for (let c = 0; c < 3; c++) {
    for (let dy = 0; dy < scale; dy++) {
      for (let dx = 0; dx < scale; dx++) {
        const from = ((c * scale + dy) * scale + dx) * height * width;
        for (let y = 0; y < height; y++) {
          const to = ((c * height + y) * scale + dy) * width * scale + dx;
          for (let x = 0; x < width; x++) out[to + x * scale] += std * x0[from + y * width + x];
        }
      }
    }
  }
  return out;
}

/** Add a weighted tile to a band (3, bandHeight, stride); what lies above the band has no weight. */
function add(
  tile: Float32Array, rowWeights: Float32Array, columnWeights: Float32Array,
  band: Float32Array, bandHeight: number, stride: number, top: number, left: number,
): void {
  const [height, width] = [rowWeights.length, columnWeights.length];
  for (let c = 0; c < 3; c++) {
    for (let y = 0; y < height; y++) {
      const weight = rowWeights[y];
      if (weight === 0) continue;
      const from = (c * height + y) * width;
      const to = (c * bandHeight + top + y) * stride + left;
      for (let x = 0; x < width; x++) band[to + x] += weight * columnWeights[x] * tile[from + x];
    }
  }
}

/** Copy rows of (3, fromHeight, stride), from the row `skip` on, to the first rows of (3, toHeight, stride). */
function copyRows(
  from: Float32Array, fromHeight: number, skip: number, to: Float32Array, toHeight: number, stride: number,
): void {
  const rows = Math.min(fromHeight - skip, toHeight);
  for (let c = 0; c < 3; c++) {
    const start = (c * fromHeight + skip) * stride;
    to.set(from.subarray(start, start + rows * stride), c * toHeight * stride);
  }
}

/** Refuse a tile that is not finite, or black where the input is not: a device that computes wrong numbers. */
function check(restored: Float32Array, lq: Float32Array): void {
  let highest = -Infinity;
  for (const value of restored) {
    if (!Number.isFinite(value)) throw new Error(`the result is not finite${ADVICE}`);
    if (value > highest) highest = value;
  }
  const mean = lq.reduce((sum, value) => sum + value, 0) / lq.length;
  if (highest < BLACK && mean > BRIGHT) throw new Error(`the result is black${ADVICE}`);
}
