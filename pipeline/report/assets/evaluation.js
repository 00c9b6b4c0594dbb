// What `evaluate --page` adds: the labels against a truth file.

function reliability(bins) {
  const size = 220, at = (value) => 8 + (size - 16) * value, up = (value) => size - at(value);
  const svg = el("svg", { class: "reliability", viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": "Accuracy against probability by bin; the table has the numbers." },
    el("rect", { class: "frame", x: 8, y: 8, width: size - 16, height: size - 16 }),
    el("line", { class: "ideal", x1: at(0), y1: up(0), x2: at(1), y2: up(1) }));
  for (const bin of bins) {
    svg.append(el("line", { class: "gap", x1: at(bin.probability), x2: at(bin.probability), y1: up(bin.probability), y2: up(bin.accuracy) }));
    svg.append(el("circle", { class: "dot", cx: at(bin.probability), cy: up(bin.accuracy), r: 3.5 }));
  }
  return svg;
}

function evaluationCard(found) {
  const whole = found.all;
  return el("section", { class: "card evaluation" }, el("h2", {}, "Against the truth file"),
    el("dl", { class: "figures" },
      figureOf("Accuracy", percent(whole.accuracy), plural(whole.n, "image")),
      whole.accuracy_frozen === undefined ? null : figureOf("Without adaptation", percent(whole.accuracy_frozen)),
      whole.gain === undefined ? null : figureOf("Gain, points", points(whole.gain), pointsBetween({ low: whole.interval[0], high: whole.interval[1] })),
      figureOf("Calibration error, points", (100 * whole.ece).toFixed(1), "of probability, on average")),
    el("div", { class: "columns" },
      el("div", {}, el("h3", {}, "Is the probability right?"), reliability(found.reliability),
        table("By the label's probability", [{ text: "Probability" }, { text: "Images", number: true }, { text: "Mean", number: true }, { text: "Accuracy", number: true }],
          found.reliability.map((bin) => [`${(100 * bin.low).toFixed(0)} to ${percent(bin.high, 0)}`, count(bin.n), percent(bin.probability), percent(bin.accuracy)]))),
      el("div", {}, el("h3", {}, "Taken for one another"),
        table("Most frequent first", [{ text: "Shown" }, { text: "Labelled" }, { text: "Images", number: true }],
          found.confusions.slice(0, 20).map((pair) => [pair.label, pair.said, count(pair.n)])))),
    el("h3", {}, "Classes"),
    tableOf("Classes, the worst first", [{ text: "Class" }, { text: "Images", number: true }, { text: "Recall", number: true }, { text: "Precision", number: true }, { text: "Frozen recall", number: true }],
      () => found.classes.map((one) => [one.label, count(one.n), percent(one.recall), percent(one.precision), percent(one.recall_frozen)])));
}
