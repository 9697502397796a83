// Overlapping tiles: where they lie and how they are blended; see amd_restore/inference/tiling.py. In input pixels.

/** One tile along one axis: what it is responsible for, and what it is computed from. */
export interface Span {
  start: number;
  stop: number;
  outerStart: number;
  outerStop: number;
}

/** Tiles along an axis, of nearly equal size, at most `tile` without their halo. */
export function planAxis(length: number, tile: number, halo: number): Span[] {
  const count = tile >= length ? 1 : Math.ceil(length / tile);
  return Array.from({ length: count }, (_, i) => {
    const start = Math.floor((i * length) / count);
    const stop = Math.floor(((i + 1) * length) / count);
    return { start, stop, outerStart: Math.max(start - halo, 0), outerStop: Math.min(stop + halo, length) };
  });
}

/** Half width of the blend between tiles: none where the halo covers how far a result depends on its surroundings. */
export function blendWidth(halo: number, reach: number): number {
  return halo >= reach ? 0 : Math.floor(halo / 2);
}

/** Weights of the tiles along an axis, each over its outer size; at every output pixel they add up to one. */
export function blendWeights(spans: Span[], blend: number, scale: number): Float32Array[] {
  const length = spans[spans.length - 1].stop;
  // From 0 before an edge to 1 behind it; the borders of the image have no ramp.
  const ramp = (edge: number, place: number): number => {
    if (edge === 0) return 1;
    if (edge === length) return 0;
    if (blend === 0) return place > edge ? 1 : 0;
    return Math.min(Math.max((place - (edge - blend)) / (2 * blend), 0), 1);
  };
  return spans.map(({ start, stop, outerStart, outerStop }) =>
    Float32Array.from({ length: (outerStop - outerStart) * scale }, (_, i) => {
      const place = outerStart + (i + 0.5) / scale;
      return ramp(start, place) - ramp(stop, place);
    }),
  );
}
