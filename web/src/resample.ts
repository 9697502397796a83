// Separable resampling of planes, by the weights that torch and OpenCV use.

/** For each output sample: the first input sample, and the weights from there on. */
export interface Axis {
  length: number; // of the input
  starts: Int32Array;
  weights: Float64Array[];
}

/** Bicubic enlargement (a = -0.5) as torch's with antialias: weights beyond the border are left out, not clamped. */
export function bicubic(length: number, scale: number): Axis {
  return axis(length, length * scale, (i) => {
    const centre = (i + 0.5) / scale;
    const start = Math.max(Math.trunc(centre - 2 + 0.5), 0);
    const stop = Math.min(Math.trunc(centre + 2 + 0.5), length);
    return [start, range(stop - start, (j) => cubic(start + j - centre + 0.5))];
  });
}

/** Shrinking by the mean over the area of a sample: OpenCV's INTER_AREA. */
export function area(length: number, size: number): Axis {
  const step = length / size;
  return axis(length, size, (i) => {
    const start = Math.floor(i * step);
    const stop = Math.min(Math.ceil((i + 1) * step), length);
    return [start, range(stop - start, (j) => Math.min(start + j + 1, (i + 1) * step) - Math.max(start + j, i * step))];
  });
}

/** Linear interpolation with clamped borders: OpenCV's INTER_LINEAR. */
export function linear(length: number, size: number): Axis {
  return axis(length, size, (i) => {
    const place = Math.min(Math.max(((i + 0.5) * length) / size - 0.5, 0), length - 1);
    const start = Math.min(Math.floor(place), Math.max(length - 2, 0));
    return [start, length === 1 ? [1] : [1 - (place - start), place - start]];
  });
}

/** Resample `count` planes of (rows.length, columns.length), one after the other in `planes`. */
export function resample(planes: Float32Array, count: number, rows: Axis, columns: Axis): Float32Array {
  const width = columns.starts.length;
  const height = rows.starts.length;
  const wide = new Float32Array(count * rows.length * width);
  for (let line = 0; line < count * rows.length; line++) {
    for (let x = 0; x < width; x++) {
      const weights = columns.weights[x];
      const from = line * columns.length + columns.starts[x];
      let sum = 0;
      for (let j = 0; j < weights.length; j++) sum += weights[j] * planes[from + j];
      wide[line * width + x] = sum;
    }
  }
  const out = new Float32Array(count * height * width);
  for (let plane = 0; plane < count; plane++) {
    for (let y = 0; y < height; y++) {
      const weights = rows.weights[y];
      const from = (plane * rows.length + rows.starts[y]) * width;
      const to = (plane * height + y) * width;
      for (let j = 0; j < weights.length; j++) {
        const weight = weights[j];
        for (let x = 0; x < width; x++) out[to + x] += weight * wide[from + j * width + x];
      }
    }
  }
  return out;
}

function axis(length: number, size: number, sample: (i: number) => [number, number[]]): Axis {
  const starts = new Int32Array(size);
  const weights: Float64Array[] = [];
  for (let i = 0; i < size; i++) {
    const [start, unscaled] = sample(i);
    const sum = unscaled.reduce((a, b) => a + b, 0);
    starts[i] = start;
    weights.push(Float64Array.from(unscaled, (weight) => weight / sum));
  }
  return { length, starts, weights };
}

function cubic(distance: number): number {
  const a = -0.5;
  const x = Math.abs(distance);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function range(count: number, value: (i: number) => number): number[] {
  return Array.from({ length: count }, (_, i) => value(i));
}
