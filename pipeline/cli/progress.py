"""How far a job is, said while it runs: a line drawn anew on a terminal, otherwise a line every few seconds.

A job that stands still says so once a minute.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Self

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from grpo_tta.pipeline.cli.console import draws, errors, say
from grpo_tta.pipeline.run.driver import Progress
from grpo_tta.pipeline.watch import metrics
from grpo_tta.pipeline.watch.progress import LiveProgress
from grpo_tta.schemas import Counters

_SECONDS = 5.0
_STANDING_SECONDS = 60.0
_DRAWN_SECONDS = 0.5
_RATE_SECONDS = 30.0


class JobWatch(ABC):
    """Says what `told` says, from a thread of its own, as long as the block runs; and at its end, where the last is not
    yet said."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._said: tuple[str, float] = ("", time.monotonic())
        self._bar: Bar | None = None

    @abstractmethod
    def told(self) -> tuple[str, Mapping[str, Any]]:
        """The line, and its figures by name; ``total`` among them where an end is known."""

    def __enter__(self) -> Self:
        if draws():
            # Only stderr moves out of the bar's way: what goes to stdout may be for a file.
            self._bar = Bar(
                BarColumn(20), TextColumn("{task.description}", markup=False), console=errors, transient=True,
                auto_refresh=False, redirect_stdout=False,
            )  # fmt: skip
            self._bar.add_task("", total=None)
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.stop()
        elif self._said[0]:
            self.say(standing_seconds=float("inf"))

    def _run(self) -> None:
        while not self._ended.wait(_SECONDS if self._bar is None else _DRAWN_SECONDS):
            self.say()

    def say(self, standing_seconds: float = _STANDING_SECONDS) -> None:
        """What is new, or has been the same for so long."""
        text, figures = self.told()
        if self._bar is not None:
            done, total = figures.get("images"), figures.get("total")
            self._bar.update(self._bar.task_ids[0], description=text, completed=done, total=total)
            self._bar.refresh()
            return
        said, when = self._said
        if text != said or time.monotonic() - when >= standing_seconds:
            say(text, **figures)
            self._said = (text, time.monotonic())


class ListedWatch(JobWatch):
    """Of a job over a listing: done; rate and time left as soon as an image is labelled.

    ``labelled`` counts the images of this process, those of the running slice included. The clock of the rate starts at
    the first call, which says where the job begins.
    """

    def __init__(self, labelled: Callable[[], int]) -> None:
        super().__init__()
        self._source = labelled
        self._most = 0
        self._started = time.monotonic()
        self._first = self._at_commit = self._labelled()
        self._begun = 0
        self._last: Progress | None = None

    def _labelled(self) -> int:
        """A labeler that its job has left counts no more."""
        self._most = max(self._most, self._source())
        return self._most

    def __call__(self, progress: Progress) -> None:
        """A commit, or the beginning."""
        self._at_commit = self._labelled()
        if self._last is None:
            self._started, self._first, self._begun = time.monotonic(), self._at_commit, progress.done
        self._last = progress

    def told(self) -> tuple[str, dict[str, Any]]:
        """As the bar and the lines have it."""
        labelled, elapsed = self._labelled(), time.monotonic() - self._started
        progress = self._last
        if progress is None:
            return _loading(elapsed), {}
        here, there = labelled - self._first, progress.done - self._begun  # or in other processes
        rate = max(here, there) / elapsed if elapsed else 0.0
        done = min(progress.done + labelled - self._at_commit, progress.total)
        text, figures = _paced(done, progress.total, rate)
        seen = _seen(progress.counters)
        return f"{text}, {_listed(seen)}", {**figures, **seen}


class CountedWatch(JobWatch):
    """Of a command that takes so many images through the model, once it has told how many those are."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = self._started = time.monotonic()
        self._images: tuple[int, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` are through."""
        if self._images is None:
            self._started = time.monotonic()
        self._images = done, total

    def told(self) -> tuple[str, dict[str, Any]]:
        """As the bar and the lines have it."""
        if self._images is None:
            return _loading(time.monotonic() - self._begun), {}
        done, total = self._images
        return _paced(done, total, done / max(time.monotonic() - self._started, 1e-3))


class LiveWatch(JobWatch):
    """Of a job over topics: how many, how fast, how far behind."""

    def __init__(self) -> None:
        super().__init__()
        self.images = 0
        self.counters = Counters()
        self._age: float | None = None
        self._last: LiveProgress | None = None
        self._started = time.monotonic()
        self._slices: deque[tuple[float, int]] = deque()

    def __call__(self, progress: LiveProgress) -> None:
        """A commit."""
        self.images += progress.images
        for result in progress.results:
            self.counters = self.counters.plus(result.counters)
        if self._last is None:
            self._started = time.monotonic() - progress.seconds
        self._last = progress
        self._slices.append((time.monotonic(), progress.images))

    def told(self) -> tuple[str, dict[str, Any]]:
        """As the bar and the lines have it."""
        if self._last is None:
            return "waiting for partitions and their first images", {}
        self._age = metrics.recent_age(0.95) or self._age
        rate, seen = self._recent_rate(), _seen(self.counters)
        owned, lag = len(self._last.owned), sum(self._last.lag.values())
        aged = "" if self._age is None else f", p95 age {self._age:.1f} s"
        figures = {
            "images": self.images, "images_per_second": rate, "lag": lag, "partitions": owned, "p95_age": self._age,
            **seen,
        }  # fmt: skip
        return f"{self.images} images, {_rate(rate)}/s, lag {lag} in {owned} partitions{aged}, {_listed(seen)}", figures

    def _recent_rate(self) -> float:
        now = time.monotonic()
        while self._slices and now - self._slices[0][0] > _RATE_SECONDS:
            self._slices.popleft()
        seconds = min(_RATE_SECONDS, max(now - self._started, 1e-3))
        return sum(images for _, images in self._slices) / seconds


def _loading(seconds: float) -> str:
    return f"loading the model and listing the source, {seconds:.0f} s"


def _paced(done: int, total: int, rate: float) -> tuple[str, dict[str, Any]]:
    seconds = (total - done) / rate if rate else None
    pace = "" if seconds is None else f", {_rate(rate)}/s, {seconds:.0f} s left"
    figures = {"images": done, "total": total, "images_per_second": rate, "seconds_left": seconds}
    return f"{done}/{total} images{pace}", figures


def _seen(counters: Counters) -> dict[str, int]:
    return {
        "dead_letters": counters.dead_letters,
        "drift_events": sum(counters.drift_events.values()),
        "resets": sum(counters.resets.values()),
    }


def _listed(seen: Mapping[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in seen.items())


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
