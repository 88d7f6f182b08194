// Pictures of numbers: the way of the residual, the blocks that are stored, the scores of classes.

import { colour, element } from "./dom.js";
import { plural, powerOfTen, small } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 260;
const FRAME = { left: 48, right: 12, top: 12, bottom: 34 };
const MOST_POINTS = 400; // a pixel each, more or less

function drawn(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Residuals by step on a logarithmic axis: the worst target as a line, all of them as a band. */
export function drawResiduals(svg, steps, tol) {
  const width = svg.clientWidth || 480; // so that letters keep their size on a phone
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  const points = thinned(steps.filter((one) => one.worst > 0 && one.best > 0));
  if (points.length === 0) return;
  const low = Math.floor(Math.log10(Math.min(tol, ...points.map((one) => one.best))));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...points.map((one) => one.worst)))));
  const first = points[0].step;
  const last = Math.max(points.at(-1).step, first + 1);
  const x = (step) => FRAME.left + ((step - first) / (last - first)) * (width - FRAME.left - FRAME.right);
  const y = (value) => {
    const share = (high - Math.log10(value)) / (high - low);
    return FRAME.top + Math.min(1, share) * (HEIGHT - FRAME.top - FRAME.bottom);
  };
  const nodes = [];
  const every = Math.ceil((high - low) / 8);
  for (let power = high; power >= low; power -= every) {
    const at = y(10 ** power);
    nodes.push(drawn("line", { x1: FRAME.left, x2: width - FRAME.right, y1: at, y2: at, class: "grid" }));
    nodes.push(drawn("text", { x: FRAME.left - 8, y: at + 4, "text-anchor": "end" }, powerOfTen(power)));
  }
  const edge = HEIGHT - FRAME.bottom + 18;
  nodes.push(drawn("text", { x: FRAME.left, y: edge, "text-anchor": "start" }, `step ${first}`));
  nodes.push(drawn("text", { x: width - FRAME.right, y: edge, "text-anchor": "end" }, String(points.at(-1).step)));
  const path = (corners) => corners.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const worst = points.map((one) => [one.step, one.worst]);
  const band = [...worst, ...points.map((one) => [one.step, one.best]).reverse()];
  nodes.push(drawn("polygon", { points: path(band), class: "band" }));
  nodes.push(drawn("line", { x1: FRAME.left, x2: width - FRAME.right, y1: y(tol), y2: y(tol), class: "goal" }));
  nodes.push(drawn("text", { x: FRAME.left + 6, y: y(tol) + (y(tol) > FRAME.top + 20 ? -6 : 15) }, "asked for"));
  nodes.push(drawn("polyline", { points: path(worst), class: "curve" }));
  const end = points.at(-1);
  nodes.push(drawn("circle", { cx: x(end.step), cy: y(end.worst), r: 3.5, class: "dot" }));
  svg.replaceChildren(...nodes);
}

function thinned(points) {
  if (points.length <= MOST_POINTS) return points;
  const every = (points.length - 1) / (MOST_POINTS - 1);
  return Array.from({ length: MOST_POINTS }, (_, k) => points[Math.round(k * every)]);
}

/** Which blocks of a Gram matrix are stored, as squares; of its mirror image paler ones. */
export function drawGram(canvas, blocks) {
  const { side } = blocks;
  const bits = Uint8Array.from(atob(blocks.packed), (c) => c.charCodeAt(0));
  const cell = Math.max(1, Math.floor(640 / side)); // device pixels; the style sheet scales it
  const gap = cell >= 8 ? Math.min(6, Math.max(1, Math.round(cell / 12))) : 0;
  canvas.width = canvas.height = side * cell - gap;
  canvas.hidden = false;
  const context = canvas.getContext("2d");
  const [stored, mirrored, missing] = ["stored", "mirrored", "missing"].map(colour);
  const square = (row, column, fill) => {
    context.fillStyle = fill;
    context.fillRect(column * cell, row * cell, cell - gap, cell - gap);
  };
  let place = 0; // the first row of blocks, then the second from the diagonal on, and so on
  for (let row = 0; row < side; row += 1)
    for (let column = row; column < side; column += 1, place += 1) {
      const isStored = (bits[place >> 3] >> (place & 7)) & 1;
      square(row, column, isStored ? stored : missing);
      if (column > row) square(column, row, isStored ? mirrored : missing);
    }
}

export const gramWords = (blocks) =>
  `${blocks.n_stored.toLocaleString("en")} of ${plural(blocks.n_blocks, "block")} stored; ` +
  `${plural(blocks.n_rows, "row")}, ${blocks.block_rows.toLocaleString("en")} to a block.`;

/** A bar to the left or right of zero for every class. */
export function scoreBars(names, scores, chosen) {
  const reach = Math.max(...scores.map(Math.abs)) || 1;
  const rows = names.map((name, k) => {
    const share = (Math.abs(scores[k]) / reach) * 50;
    const bar = element("span", { class: "score" });
    bar.style.width = `${share}%`;
    bar.style.left = `${scores[k] < 0 ? 50 - share : 50}%`;
    return element(
      "tr",
      { class: name === chosen ? "chosen" : null },
      element("th", { scope: "row" }, String(name)),
      element("td", { class: "track" }, bar),
      element("td", { class: "value" }, small(scores[k])),
    );
  });
  return element("table", { class: "scores" }, element("caption", { class: "visually-hidden" }, "Score of each class"), ...rows);
}
