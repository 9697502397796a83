// The page: takes pictures, restores one after the other, shows and saves them.

import example from "../../lowres/red_panda.png?url";
import "./page.css";
import { Engine, Stopped } from "./engine.js";
import { asWebp, decode, download, encode, paint } from "./files.js";
import { HALO, headerOf } from "./models.js";
import { keepForOffline } from "./offline.js";
import type { Options } from "./restore.js";
import { Viewer } from "./viewer.js";

const TILE = 192; // input pixels: progress every few seconds at most, with little work done twice

interface Entry {
  file: Blob;
  name: string;
  address: string; // of the file
  row: HTMLElement;
  size: { width: number; height: number } | null; // of the restoration, once it is known
  result: { png: Blob; address: string; scale: number } | null;
}

const find = <T extends HTMLElement>(selector: string): T => document.querySelector<T>(selector)!;
const form = find<HTMLFormElement>("form");
const status = find("#status");
const progress = find<HTMLProgressElement>("progress");
const stop = find<HTMLButtonElement>("#stop");
const again = find<HTMLButtonElement>("#again");
const list = find("#pictures");
const tools = find("#tools");
const saveAll = find<HTMLButtonElement>("#save-all");
const viewer = new Viewer(find("#viewer"));

const entries: Entry[] = [];
const waiting: Entry[] = [];
let shown: Entry | null = null;
let isFollowing = true; // shows what is at work, until another picture of the list is chosen
let isBusy = false;
let isStopped = false;

const wanted = new URLSearchParams(location.search).get("device") ?? "auto";
const engine = new Engine(wanted, say, onReady);

function onReady(text: string, files: string[]): void {
  if (!isBusy) say(text);
  if (document.body.dataset.ready) return; // A stop starts another worker.
  document.body.dataset.ready = "true";
  const own = [location.pathname, example, ...performance.getEntriesByType("resource").map(({ name }) => name)];
  void keepForOffline([...new Set([...own, ...files])], () => (find("#offline").hidden = false));
}

function say(text: string): void {
  status.textContent = text;
}

/** Values of the controls. */
function chosen(): { model: string; options: Options } {
  const values = new FormData(form);
  const number = (name: string): number => Number(values.get(name));
  return {
    model: String(values.get("model")),
    options: {
      steps: number("steps"), seed: Math.round(number("seed")), fidelity: number("fidelity"), tile: TILE, halo: HALO,
    },
  };
}

/** Take pictures, to be restored in their order. */
function take(files: Iterable<File>): void {
  isFollowing = true;
  for (const file of files) {
    find("#empty").hidden = true;
    const row = document.createElement("li");
    const entry: Entry = {
      file, name: file.name || "picture", address: URL.createObjectURL(file), row, size: null, result: null,
    };
    entries.push(entry);
    const button = document.createElement("button");
    button.type = "button";
    button.addEventListener("click", () => {
      isFollowing = false;
      show(entry);
    });
    row.append(button);
    list.append(row);
    mark(entry, "waiting");
    waiting.push(entry);
  }
  void workOff();
}

/** Say in the list how far an entry is. */
function mark(entry: Entry, state: string): void {
  entry.row.querySelector("button")!.textContent = `${entry.name}: ${state}`;
  saveAll.hidden = entries.filter(({ result }) => result).length < 2;
}

function show(entry: Entry): void {
  shown = entry;
  for (const { row } of entries) row.querySelector("button")!.ariaCurrent = String(row === entry.row);
  tools.hidden = !entry.result;
  again.disabled = isBusy || !entry.size;
  if (!entry.size) return;
  viewer.show(entry.address, entry.size.width, entry.size.height);
  if (entry.result) viewer.finish(entry.result.address);
}

async function workOff(): Promise<void> {
  if (isBusy) return;
  setBusy(true);
  for (let entry = waiting.shift(); entry; entry = waiting.shift()) {
    try {
      isStopped = false;
      await restore(entry);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      mark(entry, error instanceof Stopped ? "stopped" : message);
      say(`${entry.name}: ${message}`);
      if (shown === entry) show(entry);
    }
  }
  setBusy(false);
}

async function restore(entry: Entry): Promise<void> {
  const { model, options } = chosen();
  const { scale } = headerOf(model);
  const start = performance.now();
  mark(entry, "at work");
  say(`${entry.name}: reading`);
  const picture = await decode(entry.file);
  if (isStopped) throw new Stopped("stopped");
  const input = `${picture.width} x ${picture.height}`;
  entry.size = { width: picture.width * scale, height: picture.height * scale };
  if (entry.result) URL.revokeObjectURL(entry.result.address);
  entry.result = null;
  if (isFollowing || shown === entry) show(entry);
  progress.removeAttribute("value");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [entry.size.width, entry.size.height];
  await engine.restore({ picture, model, options }, {
    onRows: (rows, top) => {
      paint(canvas, rows, top);
      if (shown === entry) viewer.watch(canvas, top + rows.height);
    },
    onTile: (done, total) => {
      say(`${entry.name}: tile ${done} of ${total}, ${seconds(start)} s`);
      progress.value = done / total;
    },
  });
  const took = seconds(start);
  say(`${entry.name}: writing`);
  const png = await encode(canvas);
  entry.result = { png, address: URL.createObjectURL(png), scale };
  mark(entry, `restored in ${took} s`);
  say(`${entry.name}: ${input} to ${entry.size.width} x ${entry.size.height} in ${took} s`);
  if (shown === entry) show(entry);
}

function seconds(start: number): string {
  return ((performance.now() - start) / 1000).toFixed(1);
}

function setBusy(busy: boolean): void {
  isBusy = busy;
  stop.hidden = progress.hidden = !busy;
  again.disabled = busy || !shown?.size;
}

async function save(entry: Entry | null, type: string): Promise<void> {
  if (!entry?.result) return;
  const { png, scale } = entry.result;
  download(type === "webp" ? await asWebp(png) : png, entry.name, scale);
}

/** Say how much is loaded when a model is chosen. */
function nameSizes(): void {
  for (const option of find<HTMLSelectElement>("#model").options) {
    if (!option.defaultSelected) option.text += `, ${Math.ceil(headerOf(option.value).bytes / 1e6)} MB`;
  }
}

/** Offer the numbers of steps and the default of a model. */
function offerSteps(): void {
  const { steps, defaultSteps } = headerOf(chosen().model);
  find("#steps").replaceChildren(
    ...steps.map((count) => new Option(String(count), String(count), count === defaultSteps, count === defaultSteps)),
  );
}

find<HTMLInputElement>("#files").addEventListener("change", ({ target }) => {
  const input = target as HTMLInputElement;
  take(input.files ?? []);
  input.value = ""; // so that the same file can be chosen again
});
find("#example").addEventListener("click", async () => {
  const picture = await (await fetch(example)).blob();
  take([new File([picture], "red_panda.png", { type: picture.type })]);
});
find("#model").addEventListener("change", offerSteps);
find("#fidelity").addEventListener("input", ({ target }) => {
  find("#fidelity-value").textContent = (target as HTMLInputElement).value;
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!shown || isBusy) return;
  waiting.push(shown);
  void workOff();
});
stop.addEventListener("click", () => {
  isStopped = true;
  for (const entry of waiting.splice(0)) mark(entry, "stopped");
  engine.stop();
});
find("#actual").addEventListener("change", ({ target }) => viewer.setActual((target as HTMLInputElement).checked));
for (const type of ["png", "webp"]) find(`#save-${type}`).addEventListener("click", () => void save(shown, type));
saveAll.addEventListener("click", async () => {
  for (const entry of entries) {
    await save(entry, "png");
    await new Promise((resolve) => setTimeout(resolve, 300)); // Browsers drop downloads that come at once.
  }
});

document.addEventListener("paste", (event) => take(event.clipboardData?.files ?? []));
for (const kind of ["dragover", "dragleave", "drop"] as const) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // else the browser opens the file
    document.body.classList.toggle("dragged", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer?.files ?? []);
  });
}
nameSizes();
offerSteps();
