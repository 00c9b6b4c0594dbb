// A stream's timeline: plots over one time axis, each with its table.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const share = (values) => values.map((value) => (value === null ? null : value / 1000));

function axes(range, wide) {
  const common = { stroke: css("--quiet"), grid: { stroke: css("--grid"), width: 1 }, ticks: { stroke: css("--grid"), width: 1, size: 4 }, font: "12px system-ui, sans-serif" };
  return [
    { ...common, space: 70, size: 44, values: (plot, splits, axis, space, step) => splits.map((at, index) =>
      (step >= 86400 ? day(at) : index === 0 || day(at) !== day(splits[index - 1]) ? `${clock(at, step < 60)}\n${day(at)}` : clock(at, step < 60))) },
    { ...common, size: wide, ...range },
  ];
}

function plotOf(holder, options, columns) {
  const wide = () => Math.max(240, holder.clientWidth);
  const plot = new uPlot({ width: wide(), tzDate: (at) => uPlot.tzDate(new Date(at * 1e3), "Etc/UTC"), legend: { show: false }, ...options,
    cursor: { sync: { key: "timeline" }, drag: { x: true, y: false }, points: { size: 6 }, ...options.cursor } }, columns, holder);
  const watcher = new ResizeObserver(() => plot.setSize({ width: wide(), height: options.height }));
  watcher.observe(holder);
  return { plot, close: () => { watcher.disconnect(); plot.destroy(); } };
}

// How the guard's events are drawn, over the whole height.
const EVENTS = [
  { text: "shift noticed", of: (event) => event.signal === "shift", colour: "--mark", dash: [3, 3] },
  { text: "other event of the guard", of: (event) => event.signal !== "shift", colour: "--ill", dash: [8, 3, 2, 3] },
];

function eventLines(detail) {
  return (plot) => {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.lineWidth = Math.round(1.5 * devicePixelRatio);
    for (const kind of EVENTS) {
      ctx.strokeStyle = css(kind.colour);
      ctx.setLineDash(kind.dash.map((length) => length * devicePixelRatio));
      for (const event of detail.events.filter(kind.of)) {
        const x = Math.round(plot.valToPos(event.time, "x", true));
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
      }
    }
    ctx.restore();
  };
}

// What the guard noticed in each window, in words.
function noticed(detail) {
  const found = detail.time.map(() => []);
  for (const event of detail.events) found[Math.max(0, detail.time.findLastIndex((start) => start <= event.time))].push(event.signal);
  return found.map((signals) => signals.join(", ") || NONE);
}

const AXIS = () => (window.innerWidth < 760 ? 64 : 120);
const PERCENT = { values: (plot, splits) => splits.map((value) => `${Math.round(100 * value)} %`) };

function lines(title, detail, series, band) {
  const holder = el("div", { class: "plot", role: "img", "aria-label": lineText(title, series) });
  const read = el("span", { class: "read" });
  const range = timeRange(detail);
  const middles = detail.time.map((start, at) => start + detail.seconds[at] / 2);
  const columns = [middles, ...(band ? [share(band.low), share(band.high)] : []), ...series.map((one) => share(one.values))];
  const edge = { stroke: "transparent", points: { show: false } };
  const styled = [{}, ...(band ? [edge, { ...edge }] : []), ...series.map((one) => ({
    stroke: css(one.colour), width: 2, dash: one.dash, spanGaps: false, points: { show: detail.time.length < 40, size: 5, fill: css(one.colour), stroke: css(one.colour) },
  }))];
  const say = (at) => {
    if (at === null || at === undefined) { read.textContent = ""; return; }
    const parts = series.map((one) => (one.values[at] === null ? null : `${one.name} ${percent(one.values[at] / 1000)}`)).filter(Boolean);
    if (band && band.low[at] !== null) parts.splice(1, 0, `(${percent(band.low[at] / 1000, 0)} to ${percent(band.high[at] / 1000, 0)})`);
    read.textContent = `${moment(detail.time[at])} · ${parts.join(" ") || "not known"} · ${plural(detail.images[at], "image")}`;
  };
  const known = columns.slice(1).flat().filter((value) => value !== null);
  const least = Math.max(0, Math.floor(10 * Math.min(...known) - 0.3) / 10), most = Math.min(1, Math.ceil(10 * Math.max(...known) + 0.3) / 10);
  const draw = () => plotOf(holder, {
    height: 190, padding: [8, 40, 0, 0], series: styled, axes: axes(PERCENT, AXIS()),
    bands: band ? [{ series: [2, 1], fill: css("--band") }] : [],
    scales: { x: { time: true, range: () => range }, y: { range: () => (known.length ? [least, most] : [0, 1]) } },
    hooks: { draw: [eventLines(detail)], setCursor: [(plot) => say(plot.cursor.idx)] },
  }, columns);
  const heads = [{ text: "From" }, ...series.map((one) => ({ text: one.name, number: true })), ...(band ? [{ text: "Interval, 90 %", number: true }] : []), { text: "Images", number: true }, { text: "Noticed" }];
  const events = noticed(detail);
  const rows = () => detail.time.map((time, at) => [moment(time), ...series.map((one) => (one.values[at] === null ? NONE : percent(one.values[at] / 1000))),
    ...(band ? [band.low[at] === null ? NONE : `${percent(band.low[at] / 1000)} to ${percent(band.high[at] / 1000)}`] : []), count(detail.images[at]), events[at]]);
  return { draw, node: el("figure", { class: "chart" }, el("h3", {}, title, read), legend(series, band, detail.events), holder, tableOf(title, heads, rows)) };
}

function lineText(title, series) {
  const said = series.map((one) => {
    const known = one.values.filter((value) => value !== null);
    return known.length ? `${one.name} between ${percent(Math.min(...known) / 1000, 0)} and ${percent(Math.max(...known) / 1000, 0)}, last ${percent(known[known.length - 1] / 1000, 0)}` : `${one.name} not known`;
  });
  return `${title}: ${said.join("; ")}. The table below has the numbers.`;
}

function legend(series, band, events) {
  const key = (...inside) => el("svg", { class: "key", viewBox: "0 0 24 12", "aria-hidden": "true" }, ...inside);
  return el("ul", { class: "legend" },
    series.map((one) => el("li", {}, key(el("line", { x1: 0, x2: 24, y1: 6, y2: 6, stroke: `var(${one.colour})`, "stroke-width": 2.5, "stroke-dasharray": one.dash ? one.dash.join(" ") : null })), one.name)),
    band ? el("li", {}, key(el("rect", { x: 0, y: 1, width: 24, height: 10, fill: "var(--band)" })), "90 % interval") : null,
    EVENTS.filter((kind) => events.some(kind.of)).map((kind) =>
      el("li", {}, key(el("line", { x1: 12, x2: 12, y1: 0, y2: 12, stroke: `var(${kind.colour})`, "stroke-width": 2, "stroke-dasharray": kind.dash.join(" ") })), kind.text)));
}

function timeRange(detail) {
  const first = detail.time[0], last = detail.time[detail.time.length - 1] + detail.seconds[detail.seconds.length - 1];
  return [first, Math.max(last, first + 1)];
}

// One row a label, darker where its share is larger: read by place and lightness, not by hue.
function mix(detail) {
  const { names, time, seconds, shares } = detail.mix;
  const row = window.innerWidth < 760 ? 18 : 22;
  const holder = el("div", { class: "plot", role: "img", "aria-label": `Shares of ${names.length} labels over time. The table below has the numbers.` });
  const read = el("span", { class: "read" });
  const range = timeRange(detail);
  const rest = names.length > 10 ? 10 : -1;
  const most = Math.max(...shares.filter((_, at) => at !== rest).flat(), 1);
  const cells = (plot) => {
    const { ctx, bbox } = plot, heat = css("--heat");
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    shares.forEach((values, label) => values.forEach((value, at) => {
      if (value === null || value === 0) return;
      const left = plot.valToPos(time[at], "x", true), right = plot.valToPos(time[at] + seconds[at], "x", true);
      const top = plot.valToPos(label, "y", true), under = plot.valToPos(label + 1, "y", true);
      ctx.fillStyle = label === rest ? `rgb(128 140 155 / ${(0.06 + 0.5 * (value / 1000)).toFixed(3)})` : `rgb(${heat} / ${(0.08 + 0.92 * (value / most)).toFixed(3)})`;
      ctx.fillRect(Math.round(left), Math.round(top) + 1, Math.max(1, Math.round(right) - Math.round(left)), Math.round(under) - Math.round(top) - 2);
    }));
    ctx.restore();
  };
  const say = (plot) => {
    const { left, top } = plot.cursor;
    const at = left < 0 ? -1 : time.findLastIndex((start) => start <= plot.posToVal(left, "x"));
    const label = top < 0 ? -1 : Math.floor(plot.posToVal(top, "y"));
    const value = shares[label] && at >= 0 ? shares[label][at] : null;
    read.textContent = value === null || value === undefined ? "" : `${moment(time[at])} · ${names[label]} ${percent(value / 1000)}`;
  };
  const wide = AXIS(), fit = Math.floor((wide - 10) / 6.6);
  const short = (name) => (name.length > fit ? `${name.slice(0, fit - 1)}…` : name);
  const made = axes({ splits: () => names.map((_, at) => at + 0.5), values: () => names.map(short), grid: { show: false }, ticks: { show: false } }, wide);
  const draw = () => plotOf(holder, {
    height: row * names.length + 48, padding: [4, 40, 0, 0], axes: made,
    series: [{}, { stroke: "transparent", points: { show: false } }], cursor: { y: false, points: { show: false } },
    scales: { x: { time: true, range: () => range }, y: { dir: -1, range: () => [0, names.length] } },
    hooks: { draw: [cells, eventLines(detail)], setCursor: [say] },
  }, [time, time.map(() => null)]);
  const title = "Mix of labels";
  const heads = [{ text: "From" }, ...names.map((name) => ({ text: name, number: true }))];
  const rows = () => time.map((start, at) => [moment(start), ...shares.map((values) => (values[at] === null ? NONE : percent(values[at] / 1000)))]);
  return { draw, node: el("figure", { class: "chart" }, el("h3", {}, title, read),
    el("p", { class: "small quiet" }, `Share of the most frequent labels over time; the darkest blue is ${percent(most / 1000)}. Grey: all other labels together.`),
    holder, tableOf(title, heads, rows)) };
}
