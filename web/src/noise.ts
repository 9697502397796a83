// Standard normal noise as a function of seed and position, the same numbers as amd_restore/diffusion/noise.py draws:
// torch's generator (MT19937) seeded for each block of 32 x 32 latent cells, and torch's Box-Muller transform.

export const BLOCK = 32; // latent cells
const GROUP = 16; // torch transforms this many uniform numbers at a time: radii from the first half, angles from the second
const HALF = GROUP / 2;

export interface Window {
  top: number; // in latent cells, may be negative
  left: number;
  height: number;
  width: number;
}

/** Window of an endless field of noise, channel by channel: (channels, height, width). `step` names its layer. */
export function fieldNoise(seed: number, channels: number, window: Window, step = 0): Float32Array {
  const { top, left, height, width } = window;
  const out = new Float32Array(channels * height * width);
  const field = BigInt(seed) + BigInt(step) * 0x517cc1b727220a95n;
  for (let row = Math.floor(top / BLOCK); row * BLOCK < top + height; row++) {
    for (let column = Math.floor(left / BLOCK); column * BLOCK < left + width; column++) {
      drawBlock(out, channels, window, row, column, blockSeed(field, row, column));
    }
  }
  return out;
}

/** The 32 bits of a block's seed that MT19937 takes. */
function blockSeed(field: bigint, row: number, column: number): number {
  // Numbers of 64 bits, which only BigInt holds; one block needs this once.
  let mixed = field * 0x9e3779b97f4a7c15n + BigInt(row) * 0xbf58476d1ce4e5b9n + BigInt(column) * 0x94d049bb133111ebn;
  mixed = BigInt.asUintN(64, mixed);
  mixed ^= mixed >> 31n;
  mixed = BigInt.asUintN(64, mixed * 0xd6e8feb86659fd93n);
  mixed ^= mixed >> 32n;
  return Number(BigInt.asUintN(32, mixed));
}

/** Write what lies inside the window. A block is drawn whole, because its numbers come one after the other. */
function drawBlock(
  out: Float32Array, channels: number, window: Window, row: number, column: number, seed: number,
): void {
  const { top, left, height, width } = window;
  const generator = new MersenneTwister(seed);
  const uniform = new Float64Array(GROUP);
  for (let channel = 0; channel < channels; channel++) {
    for (let y = row * BLOCK; y < (row + 1) * BLOCK; y++) {
      for (let x = column * BLOCK; x < (column + 1) * BLOCK; x += GROUP) {
        for (let i = 0; i < GROUP; i++) uniform[i] = (generator.next() & 0xffffff) / 0x1000000;
        // The transform takes most of the time, so it is left out where nothing of it would be kept.
        if (y < top || y >= top + height || x + GROUP <= left || x >= left + width) continue;
        const start = (channel * height + y - top) * width - left;
        for (let i = 0; i < HALF; i++) {
          const radius = Math.sqrt(-2 * Math.log(1 - uniform[i]));
          const angle = 2 * Math.PI * uniform[i + HALF];
          const [first, second] = [x + i, x + i + HALF];
          if (first >= left && first < left + width) out[start + first] = radius * Math.cos(angle);
          if (second >= left && second < left + width) out[start + second] = radius * Math.sin(angle);
        }
      }
    }
  }
}

const SIZE = 624;
const SHIFT = 397;

/** MT19937 of Matsumoto and Nishimura (1998), as torch.Generator("cpu") has it. */
class MersenneTwister {
  private readonly state = new Uint32Array(SIZE);
  private index = SIZE;

  constructor(seed: number) {
    this.state[0] = seed;
    for (let i = 1; i < SIZE; i++) {
      const previous = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, previous) + i;
    }
  }

  /** The next 32 bits, as a signed number. */
  next(): number {
    if (this.index === SIZE) this.refill();
    let y = this.state[this.index++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return y ^ (y >>> 18);
  }

  private refill(): void {
    const state = this.state;
    for (let i = 0; i < SIZE; i++) {
      const bits = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + SHIFT) % SIZE] ^ (bits >>> 1) ^ (bits & 1 ? 0x9908b0df : 0);
    }
    this.index = 0;
  }
}
