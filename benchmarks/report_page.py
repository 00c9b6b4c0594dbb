"""The page of many streams: size, time and memory to write it, time until a browser shows it, time of a filter.

Made-up sums, as a job of so many cameras over so many hours would write them; every stream has its view in one page.
The browser's part needs Chromium and playwright, and is left out by name without them.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Bar, finish, parser
from grpo_tta.estimate import AccuracyCalibration, Side, Width
from grpo_tta.schemas.monitor import SAMPLES

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
IMAGES = 240
SHOWN = 60
HOURS_IN_FILE = 10
LABELS = 100
"""Of a stream."""
PAGE_MB, READY_S, WRITTEN_S, MEMORY_GB = 8.0, 3.0, 60.0, 1.0
MODEL = {"model_fingerprint": "m", "method": "grpo-online", "settings_fingerprint": "s"}


def calibration() -> AccuracyCalibration:
    """Made up too."""
    side = Side(0.35, 0.6, 0.05, Width({"clean": 0.03, "fog": 0.08}, 0.1))
    return AccuracyCalibration(
        **MODEL,
        images=1000,
        window=200,
        effective_classes=60.0,
        adapted=side,
        frozen=side,
        gain=Width({"fog": 0.06}, 0.05),
        score="least_entropy",
    )


def write_outputs(out: Path, streams: int, hours: int, labels: int) -> None:
    """``monitor/``, ``drift/`` and the newest ``labels`` of every stream; every tenth stream drifts half-way."""
    rng = np.random.default_rng(0)
    (out / "monitor").mkdir(parents=True)
    (out / "drift").mkdir()
    files = [(out / f"monitor/storage-{first:012d}.jsonl").open("w") for first in range(0, hours, HOURS_IN_FILE)]
    for number in range(streams):
        for hour, record in enumerate(_records(rng, number, hours)):
            files[hour // HOURS_IN_FILE].write(json.dumps(record) + "\n")
    for file in files:
        file.close()
    with (out / "drift/storage-000000000000.jsonl").open("w") as file:
        for number in range(0, streams, 10):
            file.write(_shift(number, START + HOUR * (hours // 2)) + "\n")
    if labels:
        _write_labels(out / "labels", streams, hours, labels)


def _write_labels(folder: Path, streams: int, hours: int, labels: int) -> None:
    """In the newest files, as many of each stream in each."""
    folder.mkdir()
    firsts = list(range(0, hours, HOURS_IN_FILE))[-5:]
    for first in firsts:
        with (folder / f"storage-{first:012d}.jsonl").open("w") as file:
            for number in range(streams):
                for at in range(labels // len(firsts)):
                    file.write(_label(number, START + HOUR * first + timedelta(seconds=at)) + "\n")


def _records(rng: np.random.Generator, number: int, hours: int) -> Iterator[dict[str, Any]]:
    """Of one stream, an hour each, as `schemas.MonitorRecord` has them."""
    hour = np.arange(hours)
    sure = 0.62 + 0.05 * np.sin(number + hour / 12) - np.where((number % 10 == 0) & (hour >= hours // 2), 0.25, 0.0)
    columns = {
        "probability": _drawn(rng, sure, 20),
        "entropy": _drawn(rng, 1 - sure, 100),
        "frozen_probability": _drawn(rng, sure - 0.05, 20),
        "least_entropy": _drawn(rng, 0.95 - sure, 100),
        "frozen_entropy": _drawn(rng, 1.05 - sure, 100),
        "labels": rng.multinomial(IMAGES, np.full(SHOWN, 1 / SHOWN), hours),
        "frozen_labels": rng.multinomial(IMAGES, np.full(SHOWN, 1 / SHOWN), hours),
    }
    for at in range(hours):
        name = f"camera-{number:04d}"
        yield {
            **MODEL, "stream": name, "bucket_start": (START + HOUR * at).isoformat(), "bucket_seconds": 3600,
            "coordinate": f"{name}/{at:06d}", "least_sure": _least_sure(name, at),
            "n": IMAGES, "frozen_n": IMAGES, "agree": int(IMAGES * sure[at]),
            **{
                key: {f"class {one:03d}" if "labels" in key else one: int(n) for one, n in enumerate(rows[at]) if n}
                for key, rows in columns.items()
            },
        }  # fmt: skip


def _least_sure(name: str, hour: int) -> list[dict[str, Any]]:
    """As many as a real record has."""
    return [
        {"coordinate": f"{name}/{hour:06d}/{at}", "label": f"class {at:03d}", "millionths": 20_000 + 997 * hour + at}
        for at in range(SAMPLES)
    ]


def _drawn(rng: np.random.Generator, mean: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Histograms of bell-shaped values, ``[hours, bins]``."""
    middles = (np.arange(bins) + 0.5) / bins
    weights = np.exp(-0.5 * ((middles - mean[:, None]) / 0.2) ** 2)
    return rng.multinomial(IMAGES, weights / weights.sum(1, keepdims=True))


def _label(number: int, time: datetime) -> str:
    name, at = f"camera-{number:04d}", time.isoformat()
    top = [{"label": f"class {one:03d}", "probability": 0.6 - 0.1 * one} for one in range(5)]
    values = {
        "coordinate": f"{name}/{at}", "id": at, "stream": name, "event_time": at, "window_start": at, "window_end": at,
        "label": "class 000", "probability": 0.6, "top_k": top, "frozen_label": "class 001", "frozen_probability": 0.5,
        "entropy": 0.4, "frozen_entropy": 0.5, "update_count": 1, "model_fingerprint": MODEL["model_fingerprint"],
        "method": MODEL["method"],
    }  # fmt: skip
    return json.dumps(values)


def _shift(number: int, time: datetime) -> str:
    from grpo_tta.schemas import DriftEvent

    return DriftEvent(
        stream=f"camera-{number:04d}", coordinate=f"camera-{number:04d}/shift", event_time=time, frame=1,
        signal="shift", statistic=21.0, threshold=15.0, size=0.5, reset=True, message="made up",
        model_fingerprint=MODEL["model_fingerprint"], method=MODEL["method"],
    ).model_dump_json(exclude_none=True)  # fmt: skip


def _of_children() -> float:
    """Seconds that the processor worked for processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Memory(threading.Thread):
    """The most memory that a process and those it has begun have held at one time, in GiB: each one's peak up to then,
    as its own ``VmHWM`` tells it. ``ru_maxrss`` of an ended child would not do: before it runs a program of its own it
    counts its parent's memory."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self.peak = pid, 0.0

    def run(self) -> None:
        """Until the process ends."""
        while own := _peak(self._pid):
            self.peak = max(self.peak, (own + sum(map(_peak, _children(self._pid)))) / 2**20)
            time.sleep(0.05)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _peak(pid: int) -> int:
    """KiB; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def in_browser(page: Path, word: str) -> tuple[float, float] | None:
    """Seconds until the page is ready, and of a filter; None without a browser."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if browser is None:
        return None
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        shown = opened.new_context(offline=True).new_page()
        begin = time.perf_counter()
        shown.goto(page.as_uri())
        shown.wait_for_selector("html[data-ready=yes]")
        ready = time.perf_counter() - begin
        begin = time.perf_counter()
        shown.fill("#filter", word)
        shown.wait_for_function("document.querySelectorAll('.overview tbody tr').length === 1")
        filtered = time.perf_counter() - begin
        opened.close()
    return ready, filtered


def main() -> int:
    """Print the bars."""
    flags = parser(__doc__)
    flags.add_argument("--streams", type=int, default=1000, metavar="N")
    flags.add_argument("--hours", type=int, default=300, metavar="N")
    flags.add_argument("--labels", type=int, default=LABELS, metavar="N", help="of each stream; 0: no labels/")
    arguments = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out, page = Path(folder) / "out", Path(folder) / "report.html"
        write_outputs(out, arguments.streams, arguments.hours, arguments.labels)
        calibration().save(Path(folder) / "accuracy.json")
        begin, spent = time.perf_counter(), _of_children()
        run = subprocess.Popen(
            [sys.executable, "-m", "grpo_tta.pipeline.cli", "report", "--out", str(out), "--page", str(page),
             "--accuracy", str(Path(folder) / "accuracy.json"), "--streams-in-page", str(arguments.streams)],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        memory = Memory(run.pid)
        memory.start()
        if run.wait():
            raise RuntimeError(f"the report ended with {run.returncode}")
        written = time.perf_counter() - begin
        memory.join()
        print(f"the processor worked {_of_children() - spent:.0f} s of these")
        bars = [
            Bar("page", page.stat().st_size / 1e6, PAGE_MB, at_most=True, unit=" MB"),
            Bar("written", written, WRITTEN_S, at_most=True, unit=" s"),
            Bar("memory", memory.peak, MEMORY_GB, at_most=True, unit=" GB"),
        ]
        shown = in_browser(page, f"camera-{arguments.streams - 1:04d}")
        if shown is None:
            print("no Chromium or no playwright here: the browser's part is left out")
        else:
            bars.append(Bar("ready in the browser", shown[0], READY_S, at_most=True, unit=" s"))
            print(f"a filter over all streams: {1000 * shown[1]:.0f} ms")
    details: dict[str, Any] = {
        "streams": arguments.streams,
        "hours": arguments.hours,
        "labels": arguments.labels,
        "filter": shown and shown[1],
    }
    return finish(arguments, bars, details)


if __name__ == "__main__":
    sys.exit(main())
