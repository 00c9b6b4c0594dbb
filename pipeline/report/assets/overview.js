// All streams: states, the worst ones, the table.

// A line of estimates (or confidence) with band and marks of shifts. Gaps stay gaps.
function spark(stream, height) {
  const width = 150, { values, low, high, marks, frozen } = stream.spark;
  const known = [...values, ...(low || []), ...(high || []), ...(frozen || [])].filter((value) => value !== null);
  if (values.length < 2 || !known.length) return el("p", { class: "quiet small" }, "no line yet");
  const svg = el("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": sparkText(stream) });
  const least = Math.max(0, Math.min(...known) - 20), most = Math.min(1000, Math.max(...known) + 20);
  const x = (at) => (width * at) / (values.length - 1);
  const y = (value) => height - 1 - ((height - 2) * (value - least)) / Math.max(most - least, 1);
  svg.append(el("line", { class: "base", x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5 }));
  if (low) svg.append(el("path", { class: "band", d: area(low, high, x, y) }));
  if (frozen) svg.append(el("path", { class: "frozen", d: line(frozen, x, y) }));
  for (const mark of marks) svg.append(el("line", { class: "shift", x1: (width * mark) / 1000, x2: (width * mark) / 1000, y1: 0, y2: height }));
  svg.append(el("path", { class: "value", d: line(values, x, y) }), el("path", { class: "dot", d: dots(values, x, y) }));
  return svg;
}

function line(values, x, y) {
  let path = "", drawing = false;
  values.forEach((value, at) => {
    if (value !== null) path += `${drawing ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    drawing = value !== null;
  });
  return path;
}

// Points between two gaps, which no line reaches.
function dots(values, x, y) {
  const missing = (at) => values[at] === null || values[at] === undefined;
  return values.map((value, at) => (missing(at) || !missing(at - 1) || !missing(at + 1) ? "" : `M${x(at).toFixed(1)} ${y(value).toFixed(1)}h0`)).join("");
}

function area(low, high, x, y) {
  let path = "", start = 0;
  while (start < low.length) {
    if (low[start] === null) { start += 1; continue; }
    let stop = start;
    while (stop < low.length && low[stop] !== null) stop += 1;
    const top = [], under = [];
    for (let at = start; at < stop; at += 1) { top.push(`${x(at).toFixed(1)} ${y(high[at]).toFixed(1)}`); under.unshift(`${x(at).toFixed(1)} ${y(low[at]).toFixed(1)}`); }
    path += `M${top.join("L")}L${under.join("L")}Z`;
    start = stop;
  }
  return path;
}

const sparkOf = (stream) => (stream.spark.low ? "Estimated accuracy" : "Mean probability of the labels");

function sparkText(stream) {
  const known = stream.spark.values.filter((value) => value !== null);
  if (!known.length) return `${sparkOf(stream)}: nothing known`;
  return `${sparkOf(stream)} from ${percent(known[0] / 1000, 0)} to ${percent(known[known.length - 1] / 1000, 0)}, lowest ${percent(Math.min(...known) / 1000, 0)}; ${plural(stream.shifts, "shift")}. The table below has the numbers.`;
}

// The numbers of the small lines.
function sparkTable(streams) {
  const heads = [{ text: "Stream" }, { text: "Line" }, ...["First", "Last", "Lowest", "Highest", "Shifts"].map((text) => ({ text, number: true }))];
  return tableOf("Over time", heads, () => streams.map((stream) => {
    const known = stream.spark.values.filter((value) => value !== null);
    const shares = known.length ? [known[0], known[known.length - 1], Math.min(...known), Math.max(...known)] : [null, null, null, null];
    return [stream.name, sparkOf(stream), ...shares.map((value) => percent(value === null ? null : value / 1000, 0)), count(stream.shifts)];
  }), "Show “Over time” as a table");
}

function hrefOf(stream) {
  const place = `#stream=${encodeURIComponent(stream.name)}`;
  return stream.page === data.page ? place : `${stream.page}${place}`;
}

const COLUMNS = [
  { key: "state", text: "State", of: (one) => ORDER.indexOf(one.state) },
  { key: "name", text: "Stream", of: (one) => one.name },
  { key: "images", text: "Images", number: true, of: (one) => one.images },
  { key: "estimate", text: "Accuracy, est.", number: true, of: (one) => one.estimate.value },
  { key: "gain", text: "Gain", number: true, of: (one) => one.gain.value },
  { key: "trend", text: "Over time", of: null },
  { key: "agreement", text: "Agreement", number: true, of: (one) => one.agreement },
  { key: "classes", text: "Classes", number: true, of: (one) => one.classes },
  { key: "dead", text: "Dead letters", number: true, of: (one) => one.dead },
  { key: "last", text: "Last image", number: true, of: (one) => one.last },
];
const STEP = 50;
const view = { filter: "", state: null, sort: "state", up: true, shown: STEP };

function chosen() {
  const words = view.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const found = data.streams.filter((one) => (view.state === null || one.state === view.state)
    && words.every((word) => one.search.includes(word)));
  const { of } = COLUMNS.find((column) => column.key === view.sort);
  const sign = view.up ? 1 : -1;
  const missing = (value) => value === null || value === undefined;
  return found.sort((a, b) => {
    const [one, other] = [of(a), of(b)];
    if (missing(one) || missing(other)) return missing(one) - missing(other) || a.rank - b.rank;
    const order = typeof one === "string" ? one.localeCompare(other, "en", { numeric: true }) : one - other;
    return sign * order || a.rank - b.rank;
  });
}

function overviewRow(stream) {
  const cell = (label, attributes, ...inside) => el("td", { "data-label": label, ...attributes }, ...inside);
  const estimate = stream.estimate;
  return el("tr", { onclick: (event) => { if (!event.target.closest("a")) window.location.href = hrefOf(stream); } },
    el("td", { class: "state" }, badge(stream.state)),
    el("th", { scope: "row", class: "name" }, el("a", { href: hrefOf(stream), class: "open" }, stream.name), el("span", { class: "under why" }, stream.reasons.join(" "))),
    cell("Images", { class: "number" }, count(stream.images)),
    cell("Accuracy, est.", { class: "number", title: estimate.unknown || null },
      el("span", {}, estimateText(estimate), estimate.value === undefined ? null : el("span", { class: "under" }, between(estimate)))),
    cell("Gain", { class: "number", title: stream.gain.unknown || null },
      el("span", {}, points(stream.gain.value), stream.gain.value === undefined ? null : el("span", { class: "under" }, pointsBetween(stream.gain)))),
    el("td", { class: "trend" }, spark(stream, 30)),
    cell("Agreement", { class: "number agreement" }, percent(stream.agreement, 0)),
    cell("Classes", { class: "number classes" }, stream.classes === null ? NONE : stream.classes.toFixed(0)),
    cell("Dead letters", { class: "number" }, count(stream.dead)),
    cell("Last image", { class: "number" }, el("span", {}, stream.last === null ? NONE : clock(stream.last), el("span", { class: "under" }, stream.last === null ? "" : day(stream.last)))));
}

function worstCard(stream) {
  const frozen = stream.estimate.value === undefined && stream.frozen.value !== undefined;
  const estimate = frozen ? stream.frozen : stream.estimate, known = estimate.value !== undefined;
  return el("article", { class: "card" },
    el("div", { class: "top" }, el("a", { href: hrefOf(stream), class: "name" }, stream.name), badge(stream.state)),
    el("p", { class: "why" }, stream.reasons.join(" ")),
    el("div", { class: "figure" },
      el("b", {}, known ? percent(estimate.value, 0) : percent(stream.confidence, 0)),
      el("span", { class: "quiet small" }, known ? `estimated accuracy${frozen ? " without adaptation" : ""}, ${between(estimate)}` : "mean probability; accuracy not estimated")),
    spark(stream, 44),
    el("p", { class: "small" }, el("b", {}, "Next: "), stream.next[0].text));
}

function tiles(redraw) {
  return el("div", { class: "tiles", role: "group", "aria-label": "Streams by state; press to filter" },
    ORDER.map((state) => {
      const found = data.streams.filter((one) => one.state === state).length;
      return el("button", {
        type: "button", class: "tile", "aria-pressed": String(view.state === state), disabled: found === 0, "data-state": state,
        onclick: () => { view.state = view.state === state ? null : state; view.shown = STEP; redraw(); },
      }, el("b", {}, count(found)), el("span", {}, icon(state), STATES[state].word));
    }));
}

function overviewTable(redraw, onOpen) {
  const found = chosen();
  const heads = COLUMNS.map((column) => el("th", {
    scope: "col", class: `${column.number ? "number" : ""} ${column.key}`,
    "aria-sort": view.sort === column.key ? (view.up ? "ascending" : "descending") : null,
  }, column.of === null ? column.text : el("button", {
    type: "button", "data-sort": column.key,
    onclick: () => {
      view.up = view.sort === column.key ? !view.up : !column.number;
      view.sort = column.key;
      redraw(`[data-sort="${column.key}"]`);
    },
  }, column.text)));
  const body = el("tbody", {}, found.slice(0, view.shown).map(overviewRow));
  return el("div", {},
    found.length ? el("div", { class: "scroll-wide" }, el("table", { class: "overview" },
      el("caption", { class: "hidden" }, "Streams, with their state and why"), el("thead", {}, el("tr", {}, heads)), body))
      : !data.streams.length ? el("p", { class: "quiet" }, "No stream yet: nothing that was read has one.")
      : el("p", { class: "quiet" }, "No stream is like that. ", el("button", { type: "button", class: "plain", onclick: () => { view.filter = ""; view.state = null; redraw(); } }, "Show all")),
    found.length > view.shown ? el("p", { class: "more" }, el("button", {
      type: "button", class: "plain", onclick: () => { view.shown += 4 * STEP; redraw(); },
    }, `Show more of ${plural(found.length, "stream")}`)) : null,
    found.length ? sparkTable(found.slice(0, view.shown)) : null);
}

function overview() {
  const holder = el("div", { class: "stack" });
  const input = el("input", { type: "search", id: "filter", placeholder: "Filter: name, state or reason", value: view.filter,
    autocomplete: "off", spellcheck: "false", "aria-keyshortcuts": "/",
    oninput: () => { view.filter = input.value; view.shown = STEP; redraw(); } });
  const said = el("p", { class: "small quiet", role: "status" });
  const tileHolder = el("div", {}), tableHolder = el("div", {});
  function redraw(focus) {
    if (input.value !== view.filter) input.value = view.filter;
    const held = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.state : null;
    tileHolder.replaceChildren(tiles(redraw));
    tableHolder.replaceChildren(overviewTable(redraw));
    const found = chosen().length;
    said.textContent = found === data.streams.length ? plural(found, "stream") : `${count(found)} of ${plural(data.streams.length, "stream")}`;
    const again = focus || (held ? `[data-state="${held}"]` : null);
    if (again) holder.querySelector(again)?.focus();
  }
  const bad = data.streams.filter((one) => one.state !== "normal").slice(0, 3);
  holder.append(
    ...[el("h1", { tabindex: "-1", class: "hidden" }, "Overview"), tileHolder,
      data.notes.length ? el("section", { class: "card note", "aria-label": "About this report" }, data.notes.map((text) => el("p", { class: "small" }, text))) : null,
      bad.length ? el("section", { "aria-labelledby": "worst" }, el("div", { class: "bar" }, el("h2", { id: "worst" }, "Look at these first")),
        el("div", { class: "worst" }, bad.map(worstCard))) : null,
      el("section", { class: "card", "aria-labelledby": "all" }, el("div", { class: "bar" }, el("h2", { id: "all" }, "Streams"),
        el("div", { class: "tools" }, said, el("label", {}, el("span", { class: "hidden" }, "Filter streams"), input))), tableHolder),
      data.evaluation ? evaluationCard(data.evaluation) : null,
      data.dead.length ? el("section", { class: "card" }, el("h2", {}, "Dead letters of no stream"), deadLetters(data.dead)) : null,
    ].filter(Boolean));
  redraw();
  return holder;
}
