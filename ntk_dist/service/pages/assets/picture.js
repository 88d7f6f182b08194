// A picture that is drawn or taken from a file, as the numbers that an image model wants.

import { $, colour, whenColoursChange } from "./dom.js";

const LARGEST = 1024; // pixels across, of a file; what a model sees is much smaller
const PEN = 1 / 11; // of the width: about the strokes of handwriting in a frame
const MNIST_BOX = 20 / 28; // of the frame, where a digit is put in large frames; small ones it fills

/** Whether rows are pictures: height, width and one or three channels. */
export const isPicture = ([height, width, channels, ...more]) =>
  more.length === 0 && [1, 3].includes(channels) && height >= 4 && width >= 4 && height <= 512 && width <= 512;

/**
 * The part of the form that makes pictures; `changed` is called when there is another one.
 *
 * Black and white are the smallest and the largest number of the training data, where that is known.
 */
export class Picture {
  constructor([height, width, channels], range, changed) {
    const [black, white] = range ?? [0, channels === 1 && height === 8 ? 16 : 255];
    Object.assign(this, { height, width, channels, black, changed, bitmap: null, isBlank: true, stroke: null });
    this.board = $("board");
    this.board.height = Math.round((this.board.width * height) / width);
    this.board.hidden = channels === 3;
    this.context = this.board.getContext("2d", { willReadFrequently: true });
    $("white").value = white;
    $("fit-line").hidden = channels === 3;
    $("picture-words").textContent =
      channels === 3
        ? `Take a picture from a file: it is cut to the middle and made ${width} × ${height} pixels small.`
        : `Draw into the frame with a mouse, a pen or a finger, or take a picture from a file. The model gets ${width} × ${height} pixels of it.`;
    this.listen();
    this.show();
  }

  listen() {
    this.board.addEventListener("pointerdown", (event) => this.begin(event));
    this.board.addEventListener("pointermove", (event) => this.go(event));
    for (const end of ["pointerup", "pointercancel"]) this.board.addEventListener(end, () => this.end());
    $("clear").addEventListener("click", () => this.clear());
    $("file").addEventListener("change", () => this.take($("file").files[0]));
    for (const id of ["white", "inverted", "fit"]) $(id).addEventListener("change", () => this.show());
    whenColoursChange(() => this.show());
  }

  // Only how opaque the ink is counts, so that it may have the colour of the page.

  begin(event) {
    if (this.bitmap) this.clear();
    this.board.setPointerCapture(event.pointerId);
    this.stroke = this.at(event);
    this.go(event);
    event.preventDefault();
  }

  go(event) {
    if (!this.stroke) return;
    const { context } = this;
    const next = this.at(event);
    context.strokeStyle = colour("ink");
    context.lineWidth = this.board.width * PEN;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...this.stroke);
    context.lineTo(...next);
    context.stroke();
    this.stroke = next;
    this.isBlank = false;
  }

  end() {
    if (!this.stroke) return;
    this.stroke = null;
    this.show();
    this.changed();
  }

  at(event) {
    const frame = this.board.getBoundingClientRect();
    const scale = this.board.width / frame.width;
    return [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
  }

  clear() {
    this.context.clearRect(0, 0, this.board.width, this.board.height);
    Object.assign(this, { bitmap: null, isBlank: true });
    $("file").value = "";
    this.show();
  }

  async take(file) {
    if (!file) return;
    try {
      this.bitmap = await createImageBitmap(file);
    } catch (error) {
      throw new Error(`expected a picture (PNG, JPEG, WebP, GIF or BMP), got ${file.name}`, { cause: error });
    } finally {
      this.isBlank = this.bitmap === null;
    }
    this.context.clearRect(0, 0, this.board.width, this.board.height);
    this.context.drawImage(this.bitmap, ...this.middle(), 0, 0, this.board.width, this.board.height);
    this.show();
    this.changed();
  }

  /** The largest part of the file around its middle that has the shape of the frame. */
  middle() {
    const { width, height } = this.bitmap;
    const scale = Math.min(width / this.width, height / this.height);
    const size = [this.width * scale, this.height * scale];
    return [(width - size[0]) / 2, (height - size[1]) / 2, ...size];
  }

  /** What the model is given: a row, nested height × width × channels. */
  row() {
    const { black } = this;
    const across = Number($("white").value) - black;
    const values = this.values();
    const at = (i, j, c) => black + values[(i * this.width + j) * this.channels + c] * across;
    const range = (n, each) => Array.from({ length: n }, (_, k) => each(k));
    return range(this.height, (i) => range(this.width, (j) => range(this.channels, (c) => at(i, j, c))));
  }

  /** From 0 to 1. */
  values() {
    const values = this.bitmap ? this.ofFile() : this.ofDrawing();
    return $("inverted").checked ? values.map((value) => 1 - value) : values;
  }

  ofFile() {
    const canvas = document.createElement("canvas");
    const scale = Math.min(1, LARGEST / Math.max(this.bitmap.width, this.bitmap.height));
    const [left, top, width, height] = this.middle();
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    const context = canvas.getContext("2d");
    context.drawImage(this.bitmap, left, top, width, height, 0, 0, canvas.width, canvas.height);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    const whole = [0, 0, canvas.width, canvas.height];
    const parts = [0, 1, 2].map((c) => this.averages((i, j) => data[(i * canvas.width + j) * 4 + c] / 255, canvas, whole));
    if (this.channels === 3) return parts[0].flatMap((_, k) => parts.map((part) => part[k]));
    return parts[0].map((_, k) => 0.2126 * parts[0][k] + 0.7152 * parts[1][k] + 0.0722 * parts[2][k]);
  }

  ofDrawing() {
    const { width, height } = this.board;
    const { data } = this.context.getImageData(0, 0, width, height);
    const ink = (i, j) => data[(i * width + j) * 4 + 3] / 255;
    const box = $("fit").checked && !this.isBlank ? this.fitted(ink) : [0, 0, width, height];
    return this.averages(ink, this.board, box);
  }

  /** A frame around what is drawn, of the shape of the board; it may reach beyond the board. */
  fitted(ink) {
    const { width, height } = this.board;
    let [left, right, top, bottom] = [width, 0, height, 0];
    for (let i = 0; i < height; i += 1)
      for (let j = 0; j < width; j += 1)
        if (ink(i, j) > 0) {
          left = Math.min(left, j);
          right = Math.max(right, j + 1);
          top = Math.min(top, i);
          bottom = Math.max(bottom, i + 1);
        }
    const share = this.height > 12 ? MNIST_BOX : 1;
    const scale = Math.max((right - left) / width, (bottom - top) / height) / share;
    const size = [width * scale, height * scale];
    return [(left + right - size[0]) / 2, (top + bottom - size[1]) / 2, ...size];
  }

  /** Averages of what is under each pixel of the model; nothing is beyond the edges. */
  averages(value, { width, height }, [left, top, across, down]) {
    const found = [];
    const span = (start, size, count, k) => {
      const from = Math.round(start + (size * k) / count);
      return [from, Math.max(from + 1, Math.round(start + (size * (k + 1)) / count))];
    };
    for (let i = 0; i < this.height; i += 1)
      for (let j = 0; j < this.width; j += 1) {
        const [i0, i1] = span(top, down, this.height, i);
        const [j0, j1] = span(left, across, this.width, j);
        let sum = 0;
        for (let p = Math.max(i0, 0); p < Math.min(i1, height); p += 1)
          for (let q = Math.max(j0, 0); q < Math.min(j1, width); q += 1) sum += value(p, q);
        found.push(sum / ((i1 - i0) * (j1 - j0)));
      }
    return found;
  }

  show() {
    const seen = $("seen");
    Object.assign(seen, { width: this.width, height: this.height });
    const context = seen.getContext("2d");
    const image = context.createImageData(this.width, this.height);
    const values = this.values();
    for (let k = 0; k < this.width * this.height; k += 1) {
      for (let c = 0; c < 3; c += 1) image.data[4 * k + c] = 255 * values[k * this.channels + (c % this.channels)];
      image.data[4 * k + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }
}
