// Whether a device computes the right numbers: drivers of some GPUs do not, which would show as black or odd pictures.

import { fieldNoise } from "./noise.js";
import type { Model } from "./restore.js";

const SIDE = 32; // as in make_models.py
const TOLERANCE = 0.02; // of a latent of unit deviation

/** Whether the network predicts for fixed noise what it does in Python. */
export async function isRight({ header, network }: Model): Promise<boolean> {
  const noise = (seed: number, channels: number): Float32Array =>
    fieldNoise(seed, channels, { top: 0, left: 0, height: SIDE, width: SIDE });
  const raw = await network(noise(0, 3 * header.scale ** 2), 1, noise(1, 3), SIDE, SIDE);
  return header.check.every((value, i) => Math.abs(raw[i] - value) < TOLERANCE);
}
