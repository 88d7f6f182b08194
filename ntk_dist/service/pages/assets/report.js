// What a fit says of itself, in words and in numbers.

import { element, tellFacts } from "./dom.js";
import { bytes, number, PHASES, plural, seconds, small } from "./words.js";

const GOOD = new Set(["converged", "minimum_norm"]);

/** Fill a panel with the report of a job or of a model. */
export function tellReport(body, report) {
  const { solve, gram } = report;
  const facts = element("dl", { class: "facts" });
  tellFacts(facts, [
    ["Largest residual", `${small(Math.max(...solve.residuals))}, asked for ${small(solve.tol)}`],
    ["Solver", `${plural(solve.steps, "step")} (${solve.method})`],
    ["Ridge", solve.ridge ? small(solve.ridge) : "none: it fits the training rows exactly"],
    ["Added unasked", solve.jitter ? small(solve.jitter) : null],
    ["Training rows", rows(report)],
    ["Gram matrix", `${plural(gram.n_blocks, "block")} of ${plural(gram.block_rows, "row")}, ${bytes(gram.n_bytes)}`],
    ["Computed for it", `${plural(gram.n_computed, "block")}${gram.n_computed < gram.n_blocks ? "; the others were there" : ""}`],
    ["Damaged blocks", gram.n_repaired ? `${number(gram.n_repaired)}, computed again` : null],
    ["Preconditioner", preconditioner(solve)],
    ["Time", time(report)],
    ["Of which compiling", report.compile_s ? seconds(report.compile_s) : null],
  ]);
  const spectrum = element("dl", { class: "facts" });
  tellFacts(spectrum, [
    ["Condition of the matrix", known(solve.matrix_condition, "at least")],
    ["Largest eigenvalue", known(solve.norm_largest, "at least")],
    ["Smallest eigenvalue", known(solve.rayleigh_smallest, "at most")],
    ["Condition that the solver saw", known(solve.condition, "at least")],
    ["Rounding may move predictions by", solve.rounding_share ? `${small(100 * solve.rounding_share)} % of the targets` : null],
  ]);
  const warnings = (solve.warnings ?? []).map((text) => element("li", { class: "trouble" }, text));
  body.replaceChildren(
    element("p", { class: GOOD.has(solve.status) ? "good" : "trouble" }, solve.text),
    ...(warnings.length ? [element("ul", { class: "plain" }, ...warnings)] : []),
    facts,
    ...(report.ridge_scores?.length ? ridges(report) : []),
    element("h3", {}, "Spectrum"),
    element(
      "p",
      { class: "explain" },
      "The condition is the ratio of the largest eigenvalue of the Gram matrix to the smallest. The larger it is, the more " +
        "steps the system takes, and the more digits of an answer depend on rounding. A preconditioner is there to make it smaller for the solver.",
    ),
    spectrum.children.length ? spectrum : element("p", { class: "hint" }, "Nothing is known of it."),
    ...ritz(solve),
  );
}

const known = (value, words) => (Number.isFinite(value) ? `${words} ${small(value)}` : null);

function rows({ n_rows, n_unique }) {
  const merged = n_rows - n_unique;
  return merged ? `${number(n_rows)}, of which ${number(merged)} repeat others and were merged` : number(n_rows);
}

function preconditioner(solve) {
  if (!solve.preconditioner_rank) return solve.preconditioner === "identity" ? "none" : solve.preconditioner;
  return `${solve.preconditioner} of rank ${number(solve.preconditioner_rank)}, ${bytes(solve.preconditioner_bytes)}`;
}

function ritz({ ritz_smallest: low, ritz_largest: high }) {
  if (!Number.isFinite(low) || !Number.isFinite(high)) return [];
  const words =
    `From ${small(low)} to ${small(high)}: what the steps of the solver know of the eigenvalues of the matrix that it saw. ` +
    "The largest of those is this large or larger, the smallest this small or smaller.";
  return [element("details", {}, element("summary", {}, "Ritz values"), element("p", { class: "explain" }, words))];
}

function time({ seconds: phases, executor }) {
  const total = Object.values(phases).reduce((sum, one) => sum + one, 0);
  const longest = Object.entries(phases).sort((a, b) => b[1] - a[1])[0];
  if (!longest) return null;
  return `${seconds(total)} on ${executor}, of which ${PHASES[longest[0]] ?? longest[0]} took ${seconds(longest[1])}`;
}

function ridges(report) {
  const lines = report.ridge_scores.map((one) =>
    element("li", {}, `${small(one.ridge)}: error ${small(one.error, 3)}${one.has_converged ? "" : " (not converged)"}`),
  );
  return [
    element("h3", {}, "Ridges that were compared"),
    element("p", { class: "explain" }, `By their error on a part of the training rows that was held out; ${small(report.solve.ridge)} was taken.`),
    element("ul", {}, ...lines),
  ];
}
