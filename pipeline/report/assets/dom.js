// Everything on the page is made by `el`: what comes from streams, labels and files only ever becomes text.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "path", "line", "rect", "circle", "polygon", "g", "text", "title"]);

function el(tag, attributes, ...children) {
  const node = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
  return node;
}

const STATES = {
  ill: { word: "Ill", shape: "M8 1.5 14.5 8 8 14.5 1.5 8Z M5.6 5.6l4.8 4.8 M10.4 5.6l-4.8 4.8" },
  degraded: { word: "Degraded", shape: "M2 3h12L8 14Z" },
  drifted: { word: "Drifted", shape: "M8 2 14 13.5H2Z" },
  silent: { word: "Silent", shape: "M2.5 2.5h11v11h-11Z M5 8h6" },
  unknown: { word: "Unknown", shape: "M8 1.8a6.2 6.2 0 1 0 .01 0Z M6.2 6.3a1.9 1.9 0 1 1 2.6 1.8c-.6.3-.8.6-.8 1.2 M8 11.4v.3" },
  normal: { word: "Normal", shape: "M8 1.8a6.2 6.2 0 1 0 .01 0Z M5 8.2l2.1 2.1L11 6.2" },
};
const ORDER = Object.keys(STATES);

function icon(state) {
  return el("svg", { class: `icon icon-${state}`, viewBox: "0 0 16 16", "aria-hidden": "true" },
    el("path", { d: STATES[state].shape }));
}

function badge(state) {
  return el("span", { class: `badge badge-${state}` }, icon(state), STATES[state].word);
}

const NONE = "–";
const percent = (value, digits = 1) => (value === null || value === undefined ? NONE : `${(100 * value).toFixed(digits)} %`);
const points = (value) => {
  if (value === null || value === undefined) return NONE;
  const tenths = Math.round(1000 * value);
  return `${tenths < 0 ? "−" : tenths > 0 ? "+" : ""}${(Math.abs(tenths) / 10).toFixed(1)}`;
};
const count = (value) => (value === null || value === undefined ? NONE : value.toLocaleString("en-US"));
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const two = (number) => String(number).padStart(2, "0");

function clock(seconds, withSeconds = false) {
  const at = new Date(1000 * seconds);
  return `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}${withSeconds ? ":" + two(at.getUTCSeconds()) : ""}`;
}

function day(seconds) {
  const at = new Date(1000 * seconds);
  return `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]} ${at.getUTCFullYear()}`;
}

const shortMoment = (seconds) => `${day(seconds).replace(/ \d+$/, "")}, ${clock(seconds, true)}`;
const moment = (seconds, withSeconds = false) =>
  seconds === null || seconds === undefined ? NONE : `${day(seconds)}, ${clock(seconds, withSeconds)}`;

function span(seconds) {
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (seconds >= 2 * size || (seconds >= size && seconds % size === 0)) return plural(Math.round(seconds / size), unit);
  }
  return plural(Math.round(seconds), "second");
}

function estimateText(estimate) {
  if (!estimate || estimate.value === undefined) return "unknown";
  return `${percent(estimate.value, 0)}`;
}

function between(estimate) {
  return estimate && estimate.value !== undefined ? `${Math.round(100 * estimate.low)} to ${Math.round(100 * estimate.high)} %` : "";
}

const pointsBetween = (gain) => `${points(gain.low)} to ${points(gain.high)}`;

// A table of plain texts: heads [{text, number}], rows of texts or nodes. One that stacks has a cell a line on a phone.
function table(caption, heads, rows, stacks = false) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", { class: stacks ? "data stacks" : "data" },
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", class: head.number ? "number" : null }, head.text)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, at) =>
        at === 0 ? el("th", { scope: "row", class: heads[at].number ? "number" : null }, cell)
          : el("td", { class: heads[at].number ? "number" : null, "data-label": (stacks && heads[at].text) || null }, cell)))))));
}

// The table behind a chart is made when it is opened: there may be a thousand rows.
function tableOf(caption, heads, rows, text = "Show as a table") {
  const details = el("details", { class: "as-table" }, el("summary", {}, text));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(table(caption, heads, rows()));
  });
  return details;
}
