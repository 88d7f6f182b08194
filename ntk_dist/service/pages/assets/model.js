// One version of a model, and a form to try it with.

import { $, element, say } from "./dom.js";
import { askJson, Problem, refuse, root } from "./api.js";
import { scoreBars } from "./charts.js";
import { isPicture, Picture } from "./picture.js";
import { tellReport } from "./report.js";
import { bytes, number, plural, rowsOf, score, seconds, shape, small } from "./words.js";

const MOST_ROWS = 200; // that are shown

const [, name, , version] = location.pathname.slice(root.length).split("/").slice(1);
const path = `/v1/models/${name}${version ? `/versions/${version}` : ""}`;

let model = null;
let picture = null;
let isOfPicture = false; // what was given last

async function begin() {
  model = await askJson(path);
  document.title = `${model.name} · ntk_dist`;
  say($("name"), model.name);
  for (const place of document.querySelectorAll("[data-model]")) place.textContent = model.name;
  showVersions();
  say($("sentence"), sentence());
  tellReport($("report-body"), model.report);
  $("layers").replaceChildren(...layers(model.architecture));
  showForm();
  $("model").removeAttribute("aria-busy");
  await showJob();
}

function sentence() {
  const what = model.classes
    ? `Tells ${plural(model.classes.length, "class", "classes")} apart (${listed(model.classes)})`
    : `Predicts ${plural(model.n_targets, "number")}`;
  return (
    `${what}, from ${rowsOf(model.n_rows, model.row_shape, "training row")}, with the ` +
    `${model.kernel === "ntk" ? "neural tangent kernel" : "NNGP kernel"} of its network. Answering takes ${bytes(model.n_bytes)} of memory.`
  );
}

const listed = (classes) => (classes.length > 12 ? `${classes.slice(0, 12).join(", ")}, …` : classes.join(", "));

function showVersions() {
  const options = model.versions.map((one) => element("option", { value: one, selected: one === model.version }, one)).reverse();
  $("version").replaceChildren(...options);
  $("version").parentElement.hidden = false;
  $("version").addEventListener("change", () =>
    location.assign(`${root}/models/${name}/versions/${$("version").value}`),
  );
}

/** The job that left it behind knows how it did on data that was held out. */
async function showJob() {
  const { items } = await askJson(`/v1/jobs?name=${name}&state=succeeded&limit=200`);
  const job = items.find((one) => one.model_version === model.version);
  if (!job) return;
  const link = element("a", { href: `${root}/jobs/${job.id}` }, "the job that made it");
  const words = score(job);
  $("sentence").append(words ? ` Held-out data: ${words} (` : " See ", link, words ? ")." : ".");
}

/** Layers in words, what is within others as lists of their own. */
function layers([kind, ...rest]) {
  if (kind === "serial") return rest.flatMap(layers);
  if (kind === "parallel") {
    const branches = rest.map((branch) => element("li", {}, element("ol", { class: "layers" }, ...layers(branch))));
    return [element("li", {}, "side by side", element("ul", {}, ...branches))];
  }
  const told = Object.entries(rest[0] ?? {}).map(([key, value]) => `${key} ${Array.isArray(value) ? shape(value.flat()) : rounded(value)}`);
  return [element("li", {}, element("strong", {}, kind), told.length ? ` ${told.join(", ")}` : "")];
}

const rounded = (value) => (typeof value === "number" ? small(value) : String(value));

// The form.

function showForm() {
  const size = model.row_shape.reduce((product, side) => product * side, 1);
  if (isPicture(model.row_shape)) {
    picture = new Picture(model.row_shape, model.input_range, () => {
      isOfPicture = true;
      predict();
    });
    for (const part of [$("picture"), $("options")]) part.hidden = part.disabled = false;
    isOfPicture = true;
  }
  $("numbers").open = picture === null;
  say($("rows-words"), `A line for each row, ${plural(size, "number")} in it, with commas or spaces between them`);
  $("rows").addEventListener("input", () => (isOfPicture = false));
  $("zeros").addEventListener("click", () => {
    $("rows").value = Array(size).fill(0).join(", ");
    isOfPicture = false;
  });
  $("try-form").addEventListener("submit", (event) => {
    event.preventDefault();
    predict();
  });
  $("try").hidden = false;
}

function givenRows() {
  if (isOfPicture) {
    if (picture.isBlank) throw new RangeError("Draw something first, or take a picture from a file.");
    return [picture.row()];
  }
  const size = model.row_shape.reduce((product, side) => product * side, 1);
  const lines = $("rows").value.split("\n").filter((line) => line.trim());
  if (lines.length === 0) throw new RangeError(`Expected rows of ${plural(size, "number")}, got none: type or paste some.`);
  return lines.map((line, k) => {
    const words = line.trim().split(/\s*[,;]\s*|\s+/);
    const values = words.map(Number);
    const wrong = words.find((word, place) => word === "" || !Number.isFinite(values[place]));
    if (wrong !== undefined) throw new RangeError(`Row ${k + 1}: expected numbers, got “${wrong.slice(0, 40)}”.`);
    if (values.length !== size) throw new RangeError(`Row ${k + 1}: expected ${plural(size, "number")}, got ${values.length}.`);
    return nested(values, model.row_shape);
  });
}

function nested(values, [side, ...inner]) {
  if (inner.length === 0) return side === undefined ? values[0] : values;
  const each = values.length / side;
  return Array.from({ length: side }, (_, k) => nested(values.slice(k * each, (k + 1) * each), inner));
}

let asked = 0;

async function predict() {
  asked += 1;
  const mine = asked;
  say($("try-refused"), "");
  $("answer").setAttribute("aria-busy", "true");
  try {
    const body = JSON.stringify({ rows: givenRows() });
    const start = performance.now();
    const headers = { "Content-Type": "application/json" };
    const answer = await askJson(`${path}:predict`, { method: "POST", headers, body });
    if (mine === asked) show(answer, (performance.now() - start) / 1000);
  } catch (error) {
    if (mine === asked) say($("try-refused"), error.message);
    if (!(error instanceof Problem || error instanceof RangeError)) throw error;
  } finally {
    if (mine === asked) $("answer").removeAttribute("aria-busy");
  }
}

function show({ y, label }, took) {
  const values = y.map((one) => [one].flat());
  const parts = label ? classesSaid(values, label) : [table(["row", ...values[0].map((_, k) => `y${values[0].length > 1 ? k + 1 : ""}`)], values.map((row) => row.map((one) => Number(one.toPrecision(6)))))];
  const rest = values.length > MOST_ROWS ? ` The first ${MOST_ROWS} of ${number(values.length)} rows are shown.` : "";
  $("answer").replaceChildren(...parts, element("p", { class: "hint" }, `Answered in ${seconds(took)} by version ${model.version}.${rest}`));
}

function classesSaid(values, label) {
  const { classes } = model;
  if (values.length > 1) return [table(["row", "class"], label.map((one) => [String(one)]))];
  const isOfTwo = values[0].length === 1;
  const scores = isOfTwo ? [-values[0][0], values[0][0]] : values[0];
  const right = small(1 - 1 / classes.length);
  const others = small(-1 / classes.length);
  const words = isOfTwo
    ? `One score decides: above zero it is ${classes[1]}, below ${classes[0]}.`
    : `The network was fitted to ${right} for the class of a training row, and to ${others} for the others. The largest score wins; scores are no probabilities.`;
  return [
    element("p", { class: "said" }, "It says ", element("strong", {}, String(label[0]))),
    scoreBars(classes, scores, label[0]),
    element("p", { class: "explain" }, words),
  ];
}

function table(head, rows) {
  const cells = (row, k) => element("tr", {}, element("th", { scope: "row" }, k + 1), ...row.map((one) => element("td", {}, one)));
  return element(
    "table",
    { class: "plain-table" },
    element("thead", {}, element("tr", {}, ...head.map((one) => element("th", { scope: "col" }, one)))),
    element("tbody", {}, ...rows.slice(0, MOST_ROWS).map(cells)),
  );
}

begin().catch(refuse);
