// The list of models.

import { $, element } from "./dom.js";
import { askJson, refuse, repeat, root } from "./api.js";
import { plural, rowsOf, small } from "./words.js";

const EVERY_MS = 10000;

function card(model) {
  const { solve } = model.report;
  const link = element("a", { href: `${root}/models/${model.name}` }, model.name);
  const state = element("span", { class: `state ${isGood(solve) ? "succeeded" : "lost"}` }, solve.status.replace("_", " "));
  const what = model.classes
    ? `Tells ${plural(model.classes.length, "class", "classes")} apart`
    : `Predicts ${plural(model.n_targets, "number")}`;
  const facts = [
    `version ${model.version}`,
    `residual ${small(Math.max(...solve.residuals))}`,
    `${model.kernel.toUpperCase()} kernel`,
    model.is_loaded ? "in memory" : null,
  ];
  return element(
    "li",
    { class: "card" },
    element("div", { class: "card-head" }, element("h2", {}, link), state),
    element("p", { class: "line" }, `${what}, from ${rowsOf(model.n_rows, model.row_shape)}.`),
    element("p", { class: "hint" }, facts.filter(Boolean).join(" · ")),
  );
}

const isGood = (solve) => solve.status === "converged" || solve.status === "minimum_norm";
let shown = "";

async function refresh() {
  const { items } = await askJson("/v1/models");
  const now = JSON.stringify(items);
  if (now !== shown) $("models").replaceChildren(...items.map(card));
  shown = now;
  $("models").removeAttribute("aria-busy");
  $("empty").hidden = items.length > 0;
}

repeat(EVERY_MS, refresh).catch(refuse);
