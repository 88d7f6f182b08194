// Elements are made from text only, never from markup: the policy of the page insists on it.

export const $ = (id) => document.getElementById(id);

/** An element with attributes and children; what is null or false is left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false || value === undefined) continue;
    made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Text that is changed only where it differs, so that a screen reader says nothing twice. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
  node.hidden = text === "";
}

/** Rows of a list of facts: pairs of words and what they are; those without a value are left out. */
export function tellFacts(list, pairs) {
  const rows = pairs
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([words, value]) => element("div", {}, element("dt", {}, words), element("dd", {}, value)));
  list.replaceChildren(...rows);
}

/** The value of a colour of the style sheet, for a canvas. */
export const colour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Call when the page turns from light to dark, or back. */
export function whenColoursChange(call) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", call);
}
