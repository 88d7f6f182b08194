// Numbers with units, for people; the same units as the command line has.

const UNKNOWN = "–";

export function bytes(count) {
  if (!Number.isFinite(count)) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let k = 0;
  for (; Math.abs(count) >= 1024 && k < units.length - 1; k += 1) count /= 1024;
  return `${k ? count.toFixed(1) : count} ${units[k]}`;
}

export function seconds(count) {
  if (!Number.isFinite(count)) return UNKNOWN;
  for (const [unit, size] of [["days", 86400], ["h", 3600], ["min", 60]])
    if (count >= 2 * size) return `${(count / size).toFixed(1)} ${unit}`;
  if (count >= 1) return `${count.toFixed(1)} s`;
  return count >= 0.001 ? `${Number(count.toPrecision(2))} s` : "under 1 ms";
}

export const number = (count) => (Number.isFinite(count) ? count.toLocaleString("en") : UNKNOWN);

const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
export const powerOfTen = (exponent) => `10${[...String(exponent)].map((c) => RAISED[c]).join("")}`;

/** A number that may be tiny or huge: 9.7 × 10⁻⁷. */
export function small(value, digits = 2) {
  if (!Number.isFinite(value)) return UNKNOWN;
  if (value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5))
    return String(Number(value.toPrecision(digits + 1))).replace("-", "−");
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  return `${mantissa.replace("-", "−")}\u00a0×\u00a0${powerOfTen(Number(exponent))}`; // never on two lines
}

export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** Phases of a fit in words; the page has them from the service. */
export const PHASES = JSON.parse(document.documentElement.dataset.phases);

export const shape = (sides) => sides.join("\u00a0×\u00a0") || "1";

export const rowsOf = (count, sides, kind = "row") =>
  `${plural(count, kind)} of ${sides.length === 1 ? plural(sides[0], "number") : `${shape(sides)} numbers`}`;

/** How long ago a time was, in words. */
export function ago(time) {
  const passed = (Date.now() - Date.parse(time)) / 1000;
  if (passed < 5) return "just now";
  return passed < 120 ? `${Math.round(passed)} s ago` : `${seconds(passed)} ago`;
}

export const moment = (time) => new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** Share of right answers, or R², of a job on its test data. */
export function score(job) {
  if (!Number.isFinite(job.score)) return null;
  return job.spec.task === "classification"
    ? `accuracy ${(100 * job.score).toFixed(1)} %`
    : `R² ${job.score.toFixed(4)}`;
}
