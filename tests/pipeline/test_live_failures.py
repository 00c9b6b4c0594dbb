"""When a live job goes on after failures, when it gives up, and what lag it tells, with a fake cluster."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from adapters.kafka.errors import KafkaUnreachable
from adapters.kafka.membership import Assignment, Member, MembershipEvent, Ownership
from adapters.kafka.offsets import Committed
from pipeline import live
from pipeline.config import make_config
from pipeline.errors import JobError
from pipeline.graph import OpenSlice
from pipeline.live import LiveDriver, LiveProgress, Watcher
from pipeline.partition import Fingerprints, SliceResult
from schemas import Counters

PARTITION = "images-0"


class Clock:
    """``time``, as far as the driver uses it: it goes on by sleeping and by a second a look at the members' events."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class OneMember(Member):
    """Owns the partition from start to close."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ownership = Ownership()

    def start(self) -> None:
        self._ownership.change("assigned", [PARTITION])

    def assignment(self) -> Assignment:
        return self._ownership.assignment()

    def events(self, seconds: float = 0.0) -> list[MembershipEvent]:
        self._clock.now += 1
        return self._ownership.events(0)

    def commit(self, positions: Mapping[str, Committed], acquired: Mapping[str, int]) -> None:
        self._ownership.check(positions, acquired)

    def group_metadata(self) -> Any:
        raise NotImplementedError

    def close(self, seconds: float = 10.0) -> None:
        self._ownership.change("lost", [PARTITION])


class Offsets:
    """A log that ends where ``ends`` says at each moment."""

    def __init__(self, end: Callable[[], int]) -> None:
        self._end = end

    def end(self, names: Iterable[str]) -> dict[str, int]:
        return {name: self._end() for name in names}

    def start(self, start: object, names: Iterable[str]) -> dict[str, int]:
        return dict.fromkeys(names, 0)

    def check(self, positions: Mapping[str, int], policy: str) -> tuple[dict[str, int], list[Any]]:
        return dict(positions), []

    def close(self) -> None:
        pass


class Told(Watcher):
    def __init__(self) -> None:
        self.progress: list[LiveProgress] = []
        self.failures: list[Exception] = []

    def committed(self, progress: LiveProgress) -> None:
        self.progress.append(progress)

    def failed(self, error: Exception) -> None:
        self.failures.append(error)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(live, "time", clock)
    return clock


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def driver(tmp_path: Path, clock: Clock, told: Told) -> Callable[..., LiveDriver]:
    config = make_config({"source": {"url": "kafka://h:1/images"}, "output": {"url": str(tmp_path)}})

    def make(end: Callable[[], int], run: Callable[[], None], stop: Callable[[], bool] = lambda: False) -> LiveDriver:
        def run_slice(parts: list[OpenSlice]) -> list[SliceResult]:
            run()
            counts = [part.plan.span.stop - part.plan.span.start for part in parts]
            return [SliceResult("states/none", (), (), Counters(events=count, labels=count)) for count in counts]

        offsets: Any = Offsets(end)
        return LiveDriver(
            config,
            Fingerprints("c", "m", "kafka", 1),
            lambda: OneMember(clock),
            offsets,
            run_slice,
            "me",
            stop=stop,
            watcher=told,
        )

    return make


def broken() -> None:
    raise JobError("the bucket does not answer")


def test_a_slice_that_fails_on_and_on_ends_the_job(driver, clock, told):
    began = clock.now
    with pytest.raises(JobError, match=r"no slice came through in 60\d s, the last try: the bucket does not answer"):
        driver(lambda: 5, broken).run()
    assert 600 < clock.now - began < 650
    assert len(told.failures) > 100


def test_a_failure_after_a_long_quiet_time_is_the_first_of_its_kind(driver, clock, told):
    def end() -> int:
        if 5000 < clock.now < 5001.5 or 9000 < clock.now < 9001.5:
            raise KafkaUnreachable("away for a moment")
        return 0

    driver(end, broken, stop=lambda: clock.now > 10_000).run()
    assert len(told.failures) >= 2


def test_the_lag_is_of_the_moment_after_the_slice(driver, clock, told):
    ends = iter([10, 17])
    driver(lambda: next(ends, 17), lambda: None, stop=lambda: bool(told.progress)).run()
    assert told.progress[0].owned == {PARTITION: 10}
    assert told.progress[0].lag == {PARTITION: 7}
