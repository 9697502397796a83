// Input and restoration on top of each other, with a divider to drag or to move with the arrow keys.

export class Viewer {
  private readonly frame: HTMLElement;
  private readonly divider: HTMLInputElement;
  private after: HTMLCanvasElement | HTMLImageElement | null = null;
  private width = 1;
  private height = 1;

  constructor(private readonly root: HTMLElement) {
    this.frame = root.querySelector<HTMLElement>(".compare-frame")!;
    this.divider = root.querySelector("input")!;
    this.divider.addEventListener("input", () => this.layOut());
  }

  /** Show an input alone, in a frame of the size of its restoration. */
  show(before: string, width: number, height: number): void {
    [this.width, this.height] = [width, height];
    this.root.hidden = false;
    this.before.src = before;
    this.replace(null);
    this.layOut();
  }

  /** Show a finished restoration. */
  finish(after: string): void {
    const image = new Image();
    image.src = after;
    image.alt = "Restored picture";
    image.draggable = false;
    // Decoded first, so that nothing flickers between the rows and the finished picture.
    void image.decode().catch(() => undefined).then(() => this.replace(image));
  }

  /** Show the first rows of a restoration at work over its input. */
  watch(canvas: HTMLCanvasElement, rows: number): void {
    if (this.after !== canvas) this.replace(canvas);
    this.frame.style.setProperty("--done", `${(100 * rows) / this.height}%`);
  }

  /** One pixel of the restoration for each of the page's, or the whole picture. */
  setActual(actual: boolean): void {
    this.root.classList.toggle("actual", actual);
    this.layOut();
  }

  private get before(): HTMLImageElement {
    return this.root.querySelector<HTMLImageElement>(".compare-before")!;
  }

  private replace(after: HTMLCanvasElement | HTMLImageElement | null): void {
    this.after?.remove();
    this.after = after;
    if (after) {
      after.className = "compare-after";
      this.frame.prepend(after);
    }
    this.root.classList.toggle("alone", !after);
    this.root.classList.toggle("working", after instanceof HTMLCanvasElement);
    this.divider.disabled = !after;
  }

  private layOut(): void {
    const fitted = `min(100%, ${this.width}px, calc(72vh * ${this.width / this.height}))`;
    this.frame.style.width = this.root.classList.contains("actual") ? `${this.width}px` : fitted;
    this.frame.style.aspectRatio = `${this.width} / ${this.height}`;
    this.frame.style.setProperty("--cut", `${this.divider.value}%`);
  }
}
