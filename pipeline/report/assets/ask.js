// Yes or no, one picture after another; the answers are saved as a file. A reload loses none.

let asked, given = [];

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

const store = () => `grpo-tta answers ${asked.stream} ${asked.questions.map((one) => one.question.coordinate).join(" ").length} ${asked.from}`;

function keep() {
  try { window.localStorage.setItem(store(), JSON.stringify(given)); } catch { /* a page without storage still saves its file */ }
}

function remembered() {
  try {
    const found = JSON.parse(window.localStorage.getItem(store()) || "[]");
    return Array.isArray(found) && found.length <= asked.questions.length ? found : [];
  } catch { return []; }
}

function answer(right) {
  if (given.length >= asked.questions.length) return;
  given.push(right);
  keep();
  show();
}

function back() {
  if (given.length) { given.pop(); keep(); show(); }
}

function save() {
  const lines = asked.questions.slice(0, given.length).flatMap((one, at) => (given[at] === null ? [] : [`${JSON.stringify({ ...one.question, right: given[at] })}\n`]));
  const url = URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" }));
  el("a", { href: url, download: "answers.jsonl" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function show() {
  const at = given.length, total = asked.questions.length, one = asked.questions[at];
  const yes = given.filter((right) => right === true).length, no = given.filter((right) => right === false).length;
  const button = (text, key, action, main) => el("button", { type: "button", class: main ? "plain main" : "plain", "data-key": key, "aria-keyshortcuts": key, onclick: action }, text, el("kbd", {}, key));
  const image = one && one.image !== null ? el("img", { class: "picture", src: `data:image/webp;base64,${asked.images[one.image]}`, alt: `The image to judge, ${one.question.id}` }) : null;
  document.querySelector("main").replaceChildren(el("section", { class: "card ask" },
    el("h1", { class: "name" }, `Is the label right? ${asked.stream}`),
    el("p", { class: "quiet small" }, `Image ${Math.min(at + 1, total)} of ${total} · ${yes} yes, ${no} no`),
    el("progress", { max: total, value: at, "aria-label": "Answered" }),
    one ? [image || el("div", { class: "picture blank" }, one.missing),
      el("p", { class: "question", role: "status" }, "Does it show ", el("b", {}, one.question.label), "?"),
      el("div", { class: "choices" }, button("Yes", "y", () => answer(true)), button("No", "n", () => answer(false)), button("Cannot tell", "s", () => answer(null)))]
      : [el("p", { class: "question", role: "status" }, `All ${total} are answered.`), el("p", { class: "quiet" }, "Save the file, then give it to the report: --answers answers.jsonl")],
    el("div", { class: "foot" }, button("Back", "b", back), button(`Save answers.jsonl`, "w", save, !one))));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const found = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (found) { event.preventDefault(); found.click(); }
});

async function start() {
  asked = await unpack(document.getElementById("data").textContent);
  given = remembered();
  document.querySelector("header .wrap").append(el("span", { class: "brand" }, "grpo-tta report"), el("span", { class: "where name quiet" }, `${asked.out} · ${asked.stream}`));
  show();
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  document.querySelector("main").append(el("p", { class: "card" }, `This page cannot be shown here: ${error}.`));
  throw error;
});
