// What page and worker send each other.

import type { Rows } from "./planes.js";
import type { Options } from "./restore.js";

export interface Job {
  picture: ImageBitmap;
  model: string;
  options: Options;
}

/** The first message to a worker: `auto`, or the name of a device. */
export interface Opening {
  device: string;
}

export type Report =
  | { kind: "ready"; device: string; threads: number; files: string[] } // the first model and these files are loaded
  | { kind: "loading"; model: string }
  | { kind: "tile"; done: number; total: number }
  | { kind: "rows"; rows: Rows; top: number }
  | { kind: "done" }
  | { kind: "error"; message: string };
