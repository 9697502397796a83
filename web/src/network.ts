// ONNX graphs in ONNX Runtime Web.

import type * as Runtime from "onnxruntime-web";
import type { Network } from "./restore.js";

/** Network of a graph; `runtime` is the build of onnxruntime-web that fits the device, `wasm` or `webgpu`. */
export async function loadNetwork(runtime: typeof Runtime, graph: Uint8Array, device: string): Promise<Network> {
  const session = await runtime.InferenceSession.create(graph, {
    executionProviders: [device],
    graphOptimizationLevel: "all",
  });
  return async (x, t, cond, height, width) => {
    const image = (values: Float32Array): Runtime.Tensor =>
      new runtime.Tensor("float32", values, [1, values.length / (height * width), height, width]);
    const time = new runtime.Tensor("float32", Float32Array.of(t), [1]);
    const { raw } = await session.run({ x_t: image(x), t: time, cond: image(cond) });
    // A copy, for the runtime may use the memory of its results again.
    const values = Float32Array.from((await raw.getData()) as Float32Array);
    raw.dispose();
    return values;
  };
}
