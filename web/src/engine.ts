// The worker as the page uses it.

import type { Job, Report } from "./messages.js";
import type { Rows } from "./planes.js";

interface Listeners {
  onRows: (rows: Rows, top: number) => void;
  onTile: (done: number, total: number) => void;
}

/** A restoration was stopped. */
export class Stopped extends Error {}

export class Engine {
  private worker: Worker;
  private running: (Listeners & { resolve: () => void; reject: (error: Error) => void }) | null = null;

  /**
   * `device` is `auto`, `webgpu` or `wasm`; `onState` gets what the worker loads, or why it cannot; `onReady` on what it
   * computes, and the files that it has loaded.
   */
  constructor(
    private readonly device: string,
    private readonly onState: (text: string) => void,
    private readonly onReady: (text: string, files: string[]) => void,
  ) {
    this.worker = this.start();
  }

  /** Restore one picture; the next may be given when this has ended. */
  restore(job: Job, listeners: Listeners): Promise<void> {
    return new Promise((resolve, reject) => {
      this.running = { ...listeners, resolve, reject };
      this.worker.postMessage(job, [job.picture]);
    });
  }

  /** Stop at once, and load anew: a worker cannot be interrupted within a tile. */
  stop(): void {
    this.worker.terminate();
    this.worker = this.start();
    this.end(new Stopped("stopped"));
  }

  private start(): Worker {
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }: MessageEvent<Report>): void => this.receive(data);
    worker.onerror = (event): void => this.fail(event.message || "the worker could not be started");
    worker.postMessage({ device: this.device });
    return worker;
  }

  private receive(report: Report): void {
    if (report.kind === "rows") this.running?.onRows(report.rows, report.top);
    else if (report.kind === "tile") this.running?.onTile(report.done, report.total);
    else if (report.kind === "done") this.end(null);
    else if (report.kind === "error") this.fail(report.message);
    else if (report.kind === "loading") this.onState(`Loading ${report.model}`);
    else this.onReady(`Ready, on ${deviceName(report.device, report.threads)}`, report.files);
  }

  private fail(message: string): void {
    if (this.running) this.end(new Error(message));
    else this.onState(message);
  }

  private end(error: Error | null): void {
    const running = this.running;
    this.running = null;
    if (error) running?.reject(error);
    else running?.resolve();
  }
}

function deviceName(device: string, threads: number): string {
  if (device === "webgpu") return "the graphics device";
  return `the processor, ${threads} ${threads === 1 ? "thread" : "threads"}`;
}
