"""The report's pages in a real browser, offline: of a real job over the demo's feed, one camera with a hostile name;
and of the same job with estimates, more streams, so that there is one in each state, and the truth file.

Screenshots stay in ``out/pages``. Where there is no Chromium, CI fails and everybody else skips by name.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from grpo_tta.adapters.rows import Row
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import RecordFiles, read_records
from grpo_tta.demo import STREAM_PATTERN, TIME_PATTERN, accuracy_path
from grpo_tta.pipeline.cli import main
from grpo_tta.pipeline.report.answers import read_answers
from grpo_tta.pipeline.report.page import unpack
from grpo_tta.pipeline.watch.streams import STATES
from grpo_tta.schemas import DriftEvent, MonitorRecord
from grpo_tta.schemas.monitor import join

HOSTILE = "<img src=x onerror=alert(1)>\"'&"
ALONE = "north, one estimate"
SHOTS = Path(__file__).parents[2] / "out/pages"
SCREENS = {"desktop": (1280, 900), "phone": (390, 844)}
INKED = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.some((value, at) => at % 4 === 3 && value > 0);
}"""
# How many points a canvas has of each of some colours that the page names; the ground may shine through them.
COLOURED = """(canvas, names) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return names.map((name) => {
    const probe = document.createElement("canvas").getContext("2d");
    probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    probe.fillRect(0, 0, 1, 1);
    const colour = probe.getImageData(0, 0, 1, 1).data;
    const near = (at) => [0, 1, 2, 3].every((one) => Math.abs(data[at + one] - colour[one]) <= 4);
    let found = 0;
    for (let at = 0; at < data.length; at += 4) found += near(at);
    return found;
  });
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must run these tests: no chromium is installed")
        pytest.skip("no browser: chromium is not installed")
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    feed, out = folder / "feed", folder / "out"
    assert main(["demo", "feed", "--out", str(feed), "--images", "1320"]) == 0
    (feed / "cam-02").rename(feed / HOSTILE)
    (feed / "cam-01/2026-01-01T06-01-00.000Z_1.jpg").write_bytes(b"not a picture")
    config = folder / "job.yaml"
    config.write_text("output: {monitor: 10s}\n")
    assert main(["label", "--config", str(config), "--source", str(feed), "--out", str(out), "--stream-pattern",
                 STREAM_PATTERN, "--time-pattern", TIME_PATTERN, "--reference", reference()]) == 0  # fmt: skip
    assert main(["report", "--out", str(out)]) == 0
    assert main(["report", "--out", str(out), "--ask", "10", "--stream", HOSTILE]) == 0
    return out


@pytest.fixture(scope="module")
def judged(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same outputs with six hours of more streams, made of the clean camera's sums, as `evaluate` draws them."""
    folder = tmp_path_factory.mktemp("judged")
    copy = folder / "out"
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns("*.html"))
    clean = join([one for one in read_records(str(out), "monitor", MonitorRecord) if one.stream == "cam-01" and one.n])
    hour = datetime(2026, 1, 1, 6, tzinfo=UTC)
    unsure = {90: clean.n}
    twenty = dict.fromkeys(list(clean.labels)[:20], 1)
    few = {
        **{name: {10: 20} for name in ("probability", "frozen_probability")},
        **{name: {20: 20} for name in ("entropy", "least_entropy", "frozen_entropy")},
        "n": 20, "frozen_n": 20, "agree": 13, "labels": twenty, "frozen_labels": twenty,
    }  # fmt: skip
    extra = {
        "north, all well": {},
        "north, ill": {"ill": clean.n},
        "north, degraded": {"entropy": unsure, "least_entropy": unsure, "resets": {"manual": 1}},
        "north, unknown": {
            "resets": {"manual": 1},
            **few,
        },
        "north, silent": {},
    }
    records = []
    for name, values in extra.items():
        for ago in range(6):
            start = hour - timedelta(hours=ago + 4 * (name == "north, silent"))
            own = {"stream": name, "bucket_seconds": 3600, "bucket_start": start, "coordinate": f"{name} {ago}"}
            records.append(clean.model_copy(update={**own, "dead_letters": {}, **(values if ago == 0 else {})}))
    for ago, values in enumerate((few, {}, few)):  # an estimate between two gaps
        own = {"stream": ALONE, "bucket_seconds": 3600, "bucket_start": hour - timedelta(hours=ago)}
        records.append(
            clean.model_copy(
                update={**own, "coordinate": f"{ago}", "dead_letters": {}, "resets": {"manual": 1}, **values}
            )
        )
    RecordFiles(ObjectStore(str(copy)), "monitor").write("more", [Row.of(record) for record in records])
    noticed = [
        DriftEvent(
            stream=stream, coordinate=f"c{minutes}", event_time=hour + timedelta(minutes=minutes), frame=1,
            signal=signal, reset=signal == "manual", message="made up", method=clean.method,
            model_fingerprint=clean.model_fingerprint,
        )
        for stream, minutes, signal in (("north, ill", 20, "ill"), (ALONE, -60, "manual"), (ALONE, 0, "manual"))
    ]  # fmt: skip
    RecordFiles(ObjectStore(str(copy)), "drift").write("more", [Row.of(event) for event in noticed])
    page, errors, truth = copy / "report.html", folder / "errors.jsonl", out.parent / "feed/truth.jsonl"
    assert main(["evaluate", "--labels", str(copy), "--truth", str(truth), "--page", str(page), "--accuracy",
                 str(accuracy_path()), "--details", "--errors", str(errors)]) == 0  # fmt: skip
    wrong = [json.loads(line) for line in errors.read_text().splitlines()]
    assert wrong
    assert all(one["label"] != one["said"] for one in wrong)
    return page


def reference() -> str:
    from grpo_tta.demo import reference_path

    return str(reference_path())


class Shown:
    """A page with what its browser complained of and asked for."""

    def __init__(self, context: BrowserContext, path: Path) -> None:
        self.page: Page = context.new_page()
        self.troubles: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("dialog", lambda dialog: self.troubles.append(dialog.message))
        self.page.on("request", lambda one: None if one.url.startswith("data:") else self.requests.append(one.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready=yes]")

    def open(self, stream: str) -> None:
        """As a person does."""
        self.page.get_by_role("link", name=stream, exact=True).last.click()
        self.page.wait_for_selector(f"h1:text-is({quoted(stream)})")
        self.page.wait_for_timeout(200)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.fixture
def show(browser: Browser) -> Iterator[Any]:
    contexts: list[BrowserContext] = []

    def opened(path: Path, screen: str = "desktop", scheme: Any = "light") -> Shown:
        width, height = SCREENS[screen]
        contexts.append(
            browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
        )
        return Shown(contexts[-1], path)

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_draws_without_a_complaint_a_request_or_an_overflow(
    out: Path, show: Any, screen: str, scheme: str
) -> None:
    shown = show(out / "report.html", screen, scheme)
    SHOTS.mkdir(parents=True, exist_ok=True)
    shown.page.screenshot(path=SHOTS / f"overview-{screen}-{scheme}.png", full_page=True)
    for name in ("cam-06", HOSTILE):
        shown.open(name)
        canvases = shown.page.locator("canvas").all()
        assert len(canvases) >= 2
        assert all(canvas.evaluate(INKED) for canvas in canvases)
        assert shown.page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        shot = f"stream-{re.sub('[^a-z0-9-]+', '', name)[:8]}-{screen}-{scheme}.png"
        shown.page.screenshot(path=SHOTS / shot, full_page=True)
        shown.page.keyboard.press("Escape")
        shown.page.wait_for_selector("#filter")
    assert shown.troubles == []
    assert shown.requests == [(out / "report.html").as_uri()]


def test_numbers_are_those_of_the_data_and_filter_sort_and_keys_work(out: Path, show: Any) -> None:
    data = unpack((out / "report.html").read_bytes())
    page = show(out / "report.html").page

    def names() -> list[str]:
        return page.locator(".overview tbody a.open").all_inner_texts()

    assert names() == [row["name"] for row in data["streams"]]
    for row, shown in zip(data["streams"], page.locator(".overview tbody tr").all(), strict=True):
        cells = shown.locator("td.number").all_inner_texts()
        assert cells[0] == f"{row['images']:,}"
        assert cells[3] == f"{100 * row['agreement']:.0f} %"
    page.click('[data-sort="images"]')
    counts = [row["images"] for row in data["streams"]]
    assert [int(text.replace(",", "")) for text in page.locator('td[data-label="Images"]').all_inner_texts()] == sorted(
        counts, reverse=True
    )
    assert page.locator('th[aria-sort="descending"]').inner_text().startswith("Images")
    page.keyboard.press("/")
    page.keyboard.type("onerror")
    assert names() == [HOSTILE]
    page.keyboard.press("Escape")
    assert len(names()) == len(data["streams"])
    page.click('.tile[data-state="normal"]')
    assert names() == [row["name"] for row in data["streams"] if row["state"] == "normal"]
    page.click('.tile[data-state="normal"]')
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector("figure details.as-table")
    page.locator("figure details.as-table summary").first.click()
    (name,) = page.locator("h1").all_inner_texts()
    rows = page.locator("figure details.as-table tbody").first.locator("tr")
    rows.first.wait_for()
    assert rows.count() == len(data["details"][name]["time"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_estimates_states_and_truth_are_drawn_and_are_those_of_the_data(
    judged: Path, show: Any, screen: str, scheme: str
) -> None:
    data = unpack(judged.read_bytes())
    assert {row["state"] for row in data["streams"]} == set(STATES)
    shown = show(judged, screen, scheme)
    shown.page.screenshot(path=SHOTS / f"judged-{screen}-{scheme}.png", full_page=True)
    for row, line in zip(data["streams"], shown.page.locator(".overview tbody tr").all(), strict=True):
        assert words(line.locator('td[data-label="Accuracy, est."]').inner_text()) == words(
            estimate_of(row["estimate"])
        )
        assert line.locator(".why").inner_text() == " ".join(row["reasons"])
        if screen == "desktop":
            assert words(line.locator('td[data-label="Gain"]').inner_text()) == words(gain_of(row["gain"]))
    alone = shown.page.locator(".overview tbody tr", has_text=ALONE).locator(".spark .dot")
    assert alone.get_attribute("d").startswith("M")
    card = shown.page.locator(".worst .card", has_text="north, ill")
    assert "estimated accuracy without adaptation" in card.inner_text()
    shown.page.get_by_text("Over time” as a table").click()
    over_time = shown.page.locator("table.data", has_text="Lowest").locator("tbody tr")
    over_time.first.wait_for()
    assert over_time.count() == len(data["streams"])
    for row, line in zip(data["streams"], over_time.all(), strict=True):
        known = [value for value in row["spark"]["values"] if value is not None]
        told = [known[0], known[-1], min(known), max(known)] if known else [None] * 4
        assert line.locator("td.number").all_inner_texts() == [*map(share_of, told), str(row["shifts"])]
    (accuracy, *_) = shown.page.locator(".evaluation dd").all_inner_texts()
    assert accuracy.startswith(f"{100 * data['evaluation']['all']['accuracy']:.1f} %")
    assert shown.page.locator(".reliability .dot").count() == len(data["evaluation"]["reliability"])
    shown.page.screenshot(path=SHOTS / f"judged-{screen}-{scheme}.png", full_page=True)
    shown.open("north, all well")
    estimate = shown.page.locator("figure.chart", has_text="Estimated accuracy").locator("canvas")
    band, *drawn = estimate.evaluate(COLOURED, ["--band", "--adapted", "--frozen"])
    assert band > 500
    assert min(drawn) > 20
    shown.page.screenshot(path=SHOTS / f"judged-stream-{screen}-{scheme}.png", full_page=True)
    shown.page.keyboard.press("Escape")
    shown.open("north, ill")
    assert "other event of the guard" in shown.page.locator(".legend").first.inner_text()
    probability = shown.page.locator("figure.chart", has_text="Mean probability")
    assert probability.locator("canvas").evaluate(COLOURED, ["--ill"])[0] > 20
    probability.locator("summary").click()
    assert probability.locator("tbody tr").last.locator("td").last.inner_text() == "ill"
    shown.page.keyboard.press("Escape")
    shown.open("cam-01")
    together = shown.page.locator("figure.chart", has_text="Estimated accuracy")
    assert "truth, adapted" in together.locator(".legend").inner_text()
    assert together.locator("canvas").evaluate(COLOURED, ["--truth"])[0] > 5
    latest = next(row["latest"] for row in data["streams"] if row["name"] == "cam-01")
    assert f"of the newest {latest} images" in shown.page.locator("main").inner_text()
    truth = shown.page.locator("figure.chart", has_text="Accuracy by the truth file").locator("canvas")
    assert truth.evaluate(COLOURED, ["--adapted"])[0] > 5  # one window is one point
    assert shown.troubles == []
    assert shown.requests == [judged.as_uri()]


def words(text: str) -> list[str]:
    return text.split()


def estimate_of(estimate: dict[str, Any]) -> str:
    if "value" not in estimate:
        return "unknown"
    low, high = (math.floor(100 * estimate[end] + 0.5) for end in ("low", "high"))
    return f"{100 * estimate['value']:.0f} % {low} to {high} %"


def gain_of(gain: dict[str, Any]) -> str:
    if "value" not in gain:
        return "\N{EN DASH}"
    return " ".join([signed(gain["value"]), signed(gain["low"]), "to", signed(gain["high"])])


def share_of(thousandths: int | None) -> str:
    return "\N{EN DASH}" if thousandths is None else f"{math.floor(thousandths / 10 + 0.5)} %"


def signed(share: float) -> str:
    sign = "\N{MINUS SIGN}" if share < 0 else "+"
    return f"{sign}{abs(100 * share):.1f}"


def test_the_asking_page_takes_keys_goes_back_and_saves_what_the_report_reads(
    out: Path, show: Any, tmp_path: Path
) -> None:
    shown = show(out / "ask.html")
    shown.page.screenshot(path=SHOTS / "ask.png", full_page=True)
    for key in "yynbyyyyyyns":
        shown.page.keyboard.press(key)
    with shown.page.expect_download() as saving:
        shown.page.keyboard.press("w")
    saving.value.save_as(tmp_path / "answers.jsonl")
    answers = read_answers(str(tmp_path / "answers.jsonl"))
    assert [answer.right for answer in answers] == [True] * 8 + [False]
    assert {answer.stream for answer in answers} == {HOSTILE}
    assert shown.troubles == []
    assert shown.requests == [(out / "ask.html").as_uri()] or shown.requests[1].startswith("blob:")
