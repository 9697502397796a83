// Restores one picture at a time, beside the page, so that the page never waits for it. The page stops a restoration by
// ending this worker.

import type * as Runtime from "onnxruntime-web";
import gpuCode from "onnxruntime-web/ort-wasm-simd-threaded.jsep.mjs?url";
import gpuBinary from "onnxruntime-web/ort-wasm-simd-threaded.jsep.wasm?url";
import cpuCode from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import cpuBinary from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import { isRight } from "./check.js";
import { FIRST_MODEL, graphOf, headerOf } from "./models.js";
import type { Job, Opening, Report } from "./messages.js";
import { loadNetwork } from "./network.js";
import { pixelsOf } from "./pixels.js";
import type { Rows } from "./planes.js";
import { type Model, restore } from "./restore.js";

const DEVICES = { webgpu: "graphics device", wasm: "processor" };

interface Device {
  name: keyof typeof DEVICES;
  runtime: typeof Runtime;
  models: Map<string, Promise<Model>>;
}

let device: Promise<Device>;

/** The GPU where there is one, else the processor; a name in `wanted` forces one. */
async function openDevice(wanted: string): Promise<Device> {
  const models = new Map<string, Promise<Model>>();
  if (wanted === "webgpu" || (wanted === "auto" && (await hasGpu()))) {
    // Not its build "onnxruntime-web/webgpu", whose convolutions are wrong on SwiftShader (1.30.0).
    const runtime = await import("onnxruntime-web");
    runtime.env.wasm.wasmPaths = { mjs: gpuCode, wasm: gpuBinary };
    runtime.env.wasm.numThreads = 1; // only copies data
    return { name: "webgpu", runtime, models };
  }
  const runtime = await import("onnxruntime-web/wasm");
  runtime.env.wasm.wasmPaths = { mjs: cpuCode, wasm: cpuBinary };
  // Threads share memory, which browsers allow only to pages with the headers of sw.ts.
  runtime.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 8) : 1;
  return { name: "wasm", runtime, models };
}

async function hasGpu(): Promise<boolean> {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    return !!adapter && !adapter.info.isFallbackAdapter; // Those compute on the processor, slower than WASM does.
  } catch {
    return false; // Some browsers have the interface and no device.
  }
}

/** A model on a device, loaded once. */
function load({ name, runtime, models }: Device, model: string): Promise<Model> {
  let found = models.get(model);
  if (!found) {
    report({ kind: "loading", model });
    found = fetchModel(runtime, name, model);
    models.set(model, found);
    found.catch(() => models.delete(model)); // tried again with the next picture
  }
  return found;
}

async function fetchModel(runtime: typeof Runtime, device: Device["name"], name: string): Promise<Model> {
  const answer = await fetch(graphOf(name));
  if (!answer.ok) throw new Error(`the model ${name} could not be loaded (${answer.status})`);
  const header = headerOf(name);
  const network = await loadNetwork(runtime, new Uint8Array(await answer.arrayBuffer()), device);
  const model = { header, network };
  // On the processor, too: browsers compile code better once it has run, here while the visitor looks for a picture.
  if (!(await isRight(model))) throw new Error(`this ${DEVICES[device]} computes wrong numbers`);
  return model;
}

async function work({ picture, model, options }: Job): Promise<void> {
  const pixels = pixelsOf(picture);
  const found = await device;
  const student = await load(found, model);
  const mean = options.fidelity > 0 && student.header.mean ? await load(found, student.header.mean) : null;
  const onRows = (rows: Rows, top: number): void => report({ kind: "rows", rows, top }, [rows.data.buffer]);
  await restore(pixels, student, mean, options, onRows, (done, total) => report({ kind: "tile", done, total }));
  report({ kind: "done" });
}

async function open(): Promise<void> {
  const found = await device;
  await load(found, FIRST_MODEL);
  const files = performance.getEntriesByType("resource").map(({ name }) => name);
  report({ kind: "ready", device: found.name, threads: found.runtime.env.wasm.numThreads ?? 1, files });
}

/** A task, and once more on the processor where the GPU fails. */
async function attempt(task: () => Promise<void>): Promise<void> {
  try {
    await task();
  } catch (error) {
    const isGpu = await device.then(({ name }) => name === "webgpu", () => true);
    if (!isGpu) throw error;
    device = openDevice("wasm");
    await task();
  }
}

function report(message: Report, transfer: Transferable[] = []): void {
  self.postMessage(message, { transfer });
}

let queue = Promise.resolve(); // One task after the other: a session runs once at a time.

self.onmessage = ({ data }: MessageEvent<Opening | Job>): void => {
  if ("device" in data) device = openDevice(data.device);
  const task = "device" in data ? open : (): Promise<void> => work(data);
  queue = queue
    .then(() => attempt(task))
    .catch((error: unknown) => report({ kind: "error", message: error instanceof Error ? error.message : String(error) }));
};
