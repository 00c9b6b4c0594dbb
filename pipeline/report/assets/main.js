// From the packed data to the page.

let data;

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

function wanted() {
  const match = /^#stream=(.*)$/.exec(window.location.hash);
  if (!match) return null;
  try { return decodeURIComponent(match[1]); } catch { return null; }
}

function show(first) {
  for (const chart of open.splice(0)) chart.close();
  const main = document.querySelector("main");
  const name = wanted(), stream = data.streams.find((one) => one.name === name);
  if (stream && stream.page !== data.page) { window.location.href = hrefOf(stream); return; }
  const made = stream && data.details[name] ? streamView(stream) : null;
  main.replaceChildren(made ? made.node : overview());
  document.title = `${made ? `${name} · ` : ""}grpo-tta report`;
  if (made) made.draw();
  if (!first) { window.scrollTo(0, 0); main.querySelector("h1")?.focus({ preventScroll: true }); }
}

function header() {
  document.querySelector("header .wrap").append(
    el("a", { class: "brand", href: data.home }, "grpo-tta report"),
    el("span", { class: "where name quiet" }, data.out),
    el("span", { class: "when" }, data.from === null ? "no image yet" : `${moment(data.from)} to ${moment(data.to)} UTC · made ${moment(data.made)}`));
  document.querySelector("footer .wrap").append(
    el("p", {}, `${plural(data.streams.length, "stream")}, ${plural(data.images_total, "image")}, ${plural(data.dead_total, "dead letter")}. ${data.models.length ? `${data.models.length === 1 ? "Method" : "Methods"} ${data.models.join("; ")}. ` : ""}`,
      "Keys: ", el("kbd", {}, "/"), " filter, ", el("kbd", {}, "j"), " ", el("kbd", {}, "k"), " next and previous, ", el("kbd", {}, "Enter"), " open, ", el("kbd", {}, "Esc"), " back."),
    el("dl", {}, data.words.map(([word, text]) => [el("dt", {}, word), el("dd", {}, text)])));
}

function step(by) {
  const link = document.querySelector(`[data-step="${by}"]`);
  if (link) { link.click(); return; }
  const links = [...document.querySelectorAll(".overview a.open")];
  const at = links.indexOf(document.activeElement);
  links[Math.min(Math.max(at + by, 0), links.length - 1)]?.focus();
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea, select");
  if (event.key === "Escape") {
    if (typing) {
      event.preventDefault();
      if (event.target.value === "") event.target.blur();
      event.target.value = "";
      event.target.dispatchEvent(new Event("input"));
      return;
    }
    if (wanted()) document.querySelector("a.back")?.click();
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") { const filter = document.getElementById("filter"); if (filter) { event.preventDefault(); filter.focus(); } }
  if (event.key === "j" || (event.key === "ArrowDown" && event.target.matches("a.open"))) { event.preventDefault(); step(1); }
  if (event.key === "k" || (event.key === "ArrowUp" && event.target.matches("a.open"))) { event.preventDefault(); step(-1); }
});

async function start() {
  data = await unpack(document.getElementById("data").textContent);
  data.streams.forEach((stream, rank) => {
    stream.rank = rank;
    stream.search = [stream.name, stream.state, ...stream.reasons].join(" ").toLowerCase();
  });
  header();
  show(true);
  window.addEventListener("hashchange", () => show(false));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(true));
  if (data.renew) setInterval(() => { if (!document.activeElement?.matches("input")) window.location.reload(); }, 1000 * data.renew);
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  document.querySelector("main").append(el("p", { class: "card" }, `This page cannot be shown here: ${error}. It needs a browser of 2023 or later.`));
  throw error;
});
