// The page's numbers are those of the Python package; expected.json is made from it by make_models.py.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import * as runtime from "onnxruntime-web";
import { isRight } from "../src/check.js";
import { loadNetwork } from "../src/network.js";
import { fieldNoise } from "../src/noise.js";
import type { Picture } from "../src/planes.js";
import { type Header, type Model, type Network, restore } from "../src/restore.js";

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
  restorations: Case[];
}

const TOLERANCE = 2; // 1/255, beside the command
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
