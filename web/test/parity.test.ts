// The page's numbers are those of the Python package; expected.json is made from it by make_models.py.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import * as runtime from "onnxruntime-web";
import { isRight } from "../src/check.js";
import { loadNetwork } from "../src/network.js";
import { fieldNoise } from "../src/noise.js";
import { type Picture, Planes } from "../src/planes.js";
import { area, resample } from "../src/resample.js";
import { type Header, type Model, type Network, restore } from "../src/restore.js";
import { blendWeights, blendWidth, planAxis } from "../src/tiles.js";

interface Stored {
  shape: [number, number, number];
  bytes: string;
}

interface Case {
  model: string;
  steps: number;
  seed: number;
  fidelity: number;
  tile: number;
  alpha?: boolean;
  input: Stored;
  output: Stored;
}

interface Expected {
  fields: { window: [number, number, number, number, number, number, number]; values: number[] }[];
  axes: { axis: [number, number, number, number]; edges: number[][]; weights: number[][] }[];
  restorations: Case[];
}

const TOLERANCE = 1; // 1/255: rounding may go the other way
const root = new URL("../../", import.meta.url);
const expected: Expected = JSON.parse(await readFile(new URL("test/expected.json", root), "utf8"));
const { halo, models }: { halo: number; models: Record<string, Header> } = JSON.parse(
  await readFile(new URL("models/headers.json", root), "utf8"),
);
runtime.env.wasm.numThreads = 1;

for (const { window, values } of expected.fields) {
  test(`noise of ${window.join(", ")}`, () => {
    const [seed, channels, top, left, height, width, step] = window;
    const found = fieldNoise(seed, channels, { top, left, height, width }, step);
    assert.equal(found.length, values.length);
    // The last digit of torch's own depends on the processor's logarithm.
    found.forEach((value, i) => assert.ok(Math.abs(value - values[i]) < 4e-6, `${i}: ${value} is not ${values[i]}`));
  });
}

for (const { axis, edges, weights } of expected.axes) {
  test(`tiles of ${axis.join(", ")}`, () => {
    const [length, tile, halo, blend] = axis;
    const spans = planAxis(length, tile, halo);
    assert.deepEqual(spans.map(({ start, stop, outerStart, outerStop }) => [start, stop, outerStart, outerStop]), edges);
    const found = blendWeights(spans, blend, 2).map((values) => [...values]);
    found.flat().forEach((value, i) => assert.ok(Math.abs(value - weights.flat()[i]) < 1e-6));
    assert.deepEqual(found.map(({ length }) => length), weights.map(({ length }) => length));
  });
}

test("tiles take in what a result depends on, up to the halo, and are blended where that is not all", async () => {
  assert.deepEqual([blendWidth(16, 26), blendWidth(16, 16), blendWidth(15, 16)], [8, 0, 7]);
  const tile = 25;
  const [width, height] = [8, 8 * tile];
  const picture = { width, height, data: new Uint8ClampedArray(4 * width * height).fill(200) };
  for (const [reach, steps, margin] of [[halo + 1, 1, halo], [2, 1, 2], [2, 2, 4]]) {
    const heights: number[] = [];
    const network: Network = async (x, _t, _cond, height) => {
      heights.push(height);
      return x.map(() => 0);
    };
    const model = { header: { ...models["x4-real"], reach }, network };
    await restore(picture, model, null, { steps, seed: 0, fidelity: 0, tile, halo }, () => {}, () => {});
    assert.equal(Math.max(...heights), tile + 2 * margin);
  }
});

test("gray is the luma of what is restored, and colours are rounded and cut off", () => {
  const gray = new Planes({ width: 1, height: 1, data: Uint8ClampedArray.of(9, 9, 9, 255) });
  const band = (...colour: number[]): Float32Array => {
    const planes = new Float32Array(3 * 8 * 8); // a picture of one pixel is padded to eight
    colour.forEach((value, c) => planes.fill(value, 64 * c, 64 * (c + 1)));
    return planes;
  };
  assert.deepEqual([...gray.rows(band(1, 0, 0), 8, 0, 1).data], [76, 76, 76, 255]);
  assert.deepEqual([...gray.rows(band(0, 2, -1), 8, 0, 1).data], [150, 150, 150, 255]);
  const colour = new Planes({ width: 1, height: 1, data: Uint8ClampedArray.of(9, 8, 9, 255) });
  assert.deepEqual([...colour.rows(band(0.4 / 255, 1.6 / 255, 2), 8, 0, 1).data], [0, 2, 255, 255]);
});

test("shrinking is the mean over areas", () => {
  const halved = resample(Float32Array.of(1, 2, 4, 8, 16), 1, area(1, 1), area(5, 3));
  // Areas of 5/3 samples: 1 + 2/3 of 2; 1/3 of 2, 4, 1/3 of 8; 2/3 of 8, 16.
  const areas = [(1 + 4 / 3) * 0.6, (2 / 3 + 4 + 8 / 3) * 0.6, (16 / 3 + 16) * 0.6];
  areas.forEach((value, i) => assert.ok(Math.abs(halved[i] - value) < 1e-5));
});

for (const wanted of expected.restorations) {
  const { model, steps, seed, fidelity, tile } = wanted;
  const name = `${wanted.input.shape.join("x")} by ${model}, ${steps} steps, fidelity ${fidelity}, tile ${tile}`;
  test(name, async (context) => {
    const input = rgba(wanted.input);
    const output = rgba(wanted.output);
    const [student, mean] = [await load(model), fidelity > 0 ? await load(models[model].mean) : null];
    const found = new Uint8ClampedArray(output.data.length);
    const places: number[] = [];
    const done: number[][] = [];
    await restore(
      input, student, mean, { steps, seed, fidelity, tile, halo },
      (rows, top) => {
        assert.equal(rows.width, output.width);
        found.set(rows.data, top * rows.width * 4);
        places.push(top, top + rows.height);
      },
      (...progress) => done.push(progress),
    );
    assert.deepEqual([places[0], places.at(-1)], [0, output.height]);
    assert.deepEqual(done.at(-1), [done.length, done.length]);
    assert.equal(done.length > 1, tile > 0);
    let largest = 0;
    for (let i = 0; i < found.length; i++) {
      // Nobody sees the colour of what is transparent.
      const visible = i % 4 === 3 ? 1 : output.data[i - (i % 4) + 3] / 255;
      largest = Math.max(largest, visible * Math.abs(found[i] - output.data[i]));
    }
    context.diagnostic(`largest difference ${largest.toFixed(2)}/255`);
    assert.ok(largest <= TOLERANCE, `off by ${largest}/255`);
  });
}

test("the check of devices passes where numbers are right, and only there", async () => {
  for (const name of Object.keys(models)) {
    const model = await load(name);
    assert.ok(await isRight(model), name);
    const network: Network = async (...input) => (await model.network(...input)).map((value) => 1.1 * value);
    assert.ok(!(await isRight({ ...model, network })), name);
  }
});

test("a black or infinite result is refused", async () => {
  const picture = { width: 8, height: 8, data: new Uint8ClampedArray(256).fill(200) };
  for (const [value, words] of [[1e3, /black/], [NaN, /not finite/]] as const) {
    const network: Network = async (x) => x.map(() => value);
    const model = { header: models["x4-real"], network };
    const options = { steps: 1, seed: 0, fidelity: 0, tile: 0, halo };
    await assert.rejects(restore(picture, model, null, options, () => {}, () => {}), words);
  }
});

async function load(name: string): Promise<Model> {
  const graph = await readFile(new URL(`models/${name}.onnx`, root));
  return { header: models[name], network: await loadNetwork(runtime, graph, "wasm") };
}

/** RGBA bytes, as a browser decodes gray, RGB and RGBA. */
function rgba({ shape: [height, width, channels], bytes }: Stored): Picture {
  const stored = Buffer.from(bytes, "base64");
  const data = new Uint8ClampedArray(4 * height * width).fill(255);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) data[4 * i + c] = stored[i * channels + (channels === 1 ? 0 : c)];
    if (channels === 4) data[4 * i + 3] = stored[i * channels + 3];
  }
  return { width, height, data };
}
