// One stream: why it is in its state, its timeline, pictures, dead letters, what to do next.

function figureOf(name, value, under, title) {
  return el("div", { title: title || null }, el("dt", {}, name), el("dd", {}, value, under ? el("small", {}, under) : null));
}

function estimateFigure(name, estimate) {
  return estimate.value === undefined ? figureOf(name, "unknown", estimate.short, estimate.unknown) : figureOf(name, percent(estimate.value), between(estimate));
}

function keyFigures(stream, detail) {
  const gain = stream.gain;
  return el("div", {}, stream.latest ? el("p", { class: "small quiet of" }, `Accuracy, gain, agreement and classes are of the newest ${plural(stream.latest, "image")}.`) : null, el("dl", { class: "figures" },
    estimateFigure("Estimated accuracy", stream.estimate),
    estimateFigure("Without adaptation", stream.frozen),
    figureOf("Gain, points", gain.value === undefined ? NONE : points(gain.value), gain.value === undefined ? gain.short : pointsBetween(gain)),
    figureOf("Images", count(stream.images), detail.late ? `${count(detail.late)} late` : `last ${moment(stream.last)}`),
    figureOf("Agreement", percent(stream.agreement, 0), "of adapted and frozen labels"),
    figureOf("Classes in effect", stream.classes === null ? NONE : stream.classes.toFixed(0), "as many equally frequent ones"),
    figureOf("Shifts, resets", `${count(detail.events.filter((one) => one.signal === "shift").length)}, ${count(detail.resets)}`, "in this report"),
    figureOf("Dead letters", count(stream.dead), stream.dead ? percent(stream.dead / (stream.dead + stream.images)) + " of events" : "none")));
}

function shot(picture) {
  const image = picture.image !== null && picture.image !== undefined ? data.images[picture.image] : null;
  const alt = `Labelled ${picture.label}`;
  return el("li", { class: "shot" }, el("figure", { title: picture.id || picture.coordinate },
    image ? el("img", { src: `data:image/webp;base64,${image}`, alt, width: 96, height: 96 }) : el("div", { class: "blank" }, picture.missing || "no picture"),
    el("figcaption", {}, picture.label, el("span", {}, percent(picture.probability, 0)),
      picture.time ? el("span", {}, shortMoment(picture.time)) : null,
      picture.frozen && picture.frozen !== picture.label ? el("span", {}, `frozen: ${picture.frozen}`) : null)));
}

function gallery(title, pictures) {
  return el("div", {}, title ? el("h4", {}, title) : null,
    pictures.length ? el("ul", { class: "gallery" }, pictures.map(shot)) : el("p", { class: "quiet small" }, "none"));
}

function drifts(detail) {
  if (!detail.drifts.length) return null;
  return el("section", { class: "card" }, el("h2", {}, detail.drifts.length === 1 ? "The shift" : "Shifts"),
    el("div", {}, detail.drifts.map((drift) => el("article", { class: "drift" },
      el("div", { class: "head" }, el("h3", {}, moment(drift.time, true)),
        el("span", { class: "quiet small" }, [drift.size === null ? null : `size ${drift.size.toFixed(2)}, ${drift.size_word}`, drift.reset ? "reset" : "no reset"].filter(Boolean).join(" · "))),
      el("p", { class: "message" }, drift.message),
      el("div", { class: "pair" }, gallery(`Before: ${drift.before_text}`, drift.before), gallery("After: from the alarm on", drift.after))))));
}

function changes(detail) {
  if (!detail.changed.rows.length) return null;
  const most = Math.max(...detail.changed.rows.map((row) => Math.max(Math.abs(row.low), Math.abs(row.high))));
  const x = (value) => 100 + (96 * value) / most;
  const bar = (row) => el("svg", { class: "change", viewBox: "0 0 200 20", preserveAspectRatio: "none", "aria-hidden": "true" },
    el("line", { class: "zero", x1: 100, x2: 100, y1: 0, y2: 20 }),
    el("line", { class: "range", x1: x(row.low), x2: x(row.high), y1: 10, y2: 10 }),
    el("rect", { class: "dot", x: x(row.change) - 2, y: 5, width: 4, height: 10 }));
  return el("section", { class: "card" }, el("h2", {}, "Labels whose share changed most"),
    table(detail.changed.what, [{ text: "Label" }, { text: "Before", number: true }, { text: "After", number: true }, { text: "Points, 90 % interval", number: true }, { text: "" }],
      detail.changed.rows.map((row) => [row.label, percent(row.before), percent(row.after), `${points(row.change)} (${pointsBetween(row)})`, bar(row)]), true));
}

function deadLetters(causes) {
  return el("div", {}, causes.map((cause) => el("article", { class: "drift" },
    el("div", { class: "head" }, el("h3", {}, cause.cause), el("span", { class: "quiet small" }, plural(cause.count, "event"))),
    cause.message ? el("p", { class: "message" }, cause.message) : null,
    cause.coordinate ? el("p", { class: "small" }, "for example ", el("code", {}, cause.coordinate)) : null)));
}

function events(detail) {
  if (!detail.events.length) return null;
  return el("section", { class: "card" }, el("h2", {}, "What the guard noticed"),
    table("In order of time, UTC", [{ text: "Time" }, { text: "Signal" }, { text: "Size", number: true }, { text: "Reset" }, { text: "Message" }],
      detail.events.map((one) => [moment(one.time, true), one.signal, one.size === null ? NONE : one.size.toFixed(2), one.reset ? "yes" : "no", one.message]), true));
}

function answered(answers) {
  if (!answers.length) return null;
  return el("section", { class: "card" }, el("h2", {}, "Answers of people"), answers.map((one) => [el("p", {}, one.text),
    el("dl", { class: "figures" }, estimateFigure("From answers", one.answers), estimateFigure("Without answers", one.estimate), estimateFigure("Together", one.together))]));
}

function timeline(detail) {
  const charts = [];
  if (!detail.time.length) return charts;
  if (detail.estimate) {
    charts.push(lines("Estimated accuracy", detail, [
      { name: "adapted", values: detail.estimate.value, colour: "--adapted" },
      ...(detail.estimate.frozen ? [{ name: "frozen", values: detail.estimate.frozen, colour: "--frozen", dash: [6, 4] }] : []),
      ...(detail.truth ? [{ name: "truth, adapted", values: detail.truth.adapted, colour: "--truth", dash: [2, 3] }] : []),
    ], { low: detail.estimate.low, high: detail.estimate.high }));
  }
  charts.push(lines("Mean probability of the labels", detail, [
    { name: "adapted", values: detail.confidence, colour: "--adapted" },
    ...(detail.frozen_confidence ? [{ name: "frozen", values: detail.frozen_confidence, colour: "--frozen", dash: [6, 4] }] : []),
  ], null));
  if (detail.truth) {
    charts.push(lines("Accuracy by the truth file", detail, [
      { name: "adapted", values: detail.truth.adapted, colour: "--adapted" },
      ...(detail.truth.frozen ? [{ name: "frozen", values: detail.truth.frozen, colour: "--frozen", dash: [6, 4] }] : []),
    ], null));
  }
  if (detail.mix.names.length) charts.push(mix(detail));
  return charts;
}

const open = [];

function streamView(stream) {
  const detail = data.details[stream.name];
  const charts = timeline(detail);
  const list = chosen(), at = list.findIndex((one) => one.name === stream.name);
  const beside = (step, word, key) => {
    const other = list[at + step];
    return at < 0 || !other ? null : el("a", { class: "plain", href: hrefOf(other), "data-step": step, "aria-keyshortcuts": key }, word);
  };
  const node = el("div", { class: "stack" },
    el("div", { class: "crumbs" }, el("a", { href: data.home, class: "back" }, "← All streams"),
      el("nav", { "aria-label": "Neighbours in the list" }, beside(-1, "← Previous", "k"), beside(1, "Next →", "j"))),
    el("div", {}, el("div", { class: "title" }, el("h1", { class: "name", tabindex: "-1" }, stream.name), badge(stream.state)),
      el("ul", { class: "reasons" }, stream.reasons.map((text) => el("li", {}, text)))),
    keyFigures(stream, detail),
    el("section", { class: "card note next" }, el("h2", {}, "What to do next"), el("ol", {}, stream.next.map((step) => el("li", {}, step.text, step.command ? el("code", {}, step.command) : null)))),
    answered(detail.answers),
    charts.length ? el("section", { class: "card" }, el("div", { class: "bar" }, el("h2", {}, "Timeline"),
      el("p", { class: "small quiet" }, `Times are UTC. One point stands for ${detail.step}. Drag to zoom, double-click to go back.`)), el("div", {}, charts.map((chart) => chart.node))) : null,
    drifts(detail),
    !charts.length ? null : el("div", { class: "columns" },
      el("section", { class: "card" }, el("h2", {}, "Least sure"), gallery(null, detail.unsure)),
      el("section", { class: "card" }, el("h2", {}, "Adapted and frozen disagree most"), gallery(null, detail.disagree))),
    changes(detail),
    stream.dead ? el("section", { class: "card" }, el("h2", {}, "Dead letters"), deadLetters(detail.dead)) : null,
    events(detail));
  return { node, draw: () => open.push(...charts.map((chart) => chart.draw())) };
}
