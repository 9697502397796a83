// The models of the page, made by make_models.py.

import stored from "../models/headers.json";
import classicalTeacher from "../models/x4-classical-teacher.onnx?url";
import classicalTiny from "../models/x4-classical-tiny.onnx?url";
import realTeacher from "../models/x4-real-teacher.onnx?url";
import real from "../models/x4-real.onnx?url";
import type { Header } from "./restore.js";

const GRAPHS: Record<string, string> = {
  "x4-classical-tiny": classicalTiny,
  "x4-real": real,
  "x4-classical-teacher": classicalTeacher, // for fidelity
  "x4-real-teacher": realTeacher,
};

/** The model that is loaded with the page. */
export const FIRST_MODEL = "x4-classical-tiny";

/** Margin of a tile, in input pixels. */
export const HALO: number = stored.halo;

/** Address of a graph. */
export function graphOf(model: string): string {
  return GRAPHS[model];
}

export function headerOf(model: string): Header {
  return (stored.models as Record<string, Header>)[model];
}
