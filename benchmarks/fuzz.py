"""Looks for bytes that stop a job or falsify what it writes: half of the time generated events and damaged pictures
(`benchmarks.fuzz_events`), half of it bytes that atheris changes, guided by the branches that they reach
(`benchmarks.fuzz_bytes`).

    python -m benchmarks.fuzz --minutes 60 --seed 1
    python -m benchmarks.fuzz --keep

It prints a line a minute: how many of each source or target there were, and what became of them. Generated cases that
fail are printed with their seed; bytes that fail lie in ``out/fuzz`` afterwards; either way the exit status is 1. What
reached new branches stays in ``out/fuzz/corpus``, and the next call goes on from there; ``--keep`` packs the smallest
inputs that reach all of it into `fuzz_bytes.KEPT`. The tests do not need atheris: `make fuzz` installs it.
"""

import argparse
import io
import logging
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

OUT = Path("out/fuzz")
_SECONDS, _MEGABYTES, _LONGEST = 20, 3072, 8192
"""Bounds of one input: its time, the process's memory, its bytes."""
_INSTRUMENTED = ["grpo_tta.adapters", "grpo_tta.pipeline.config", "grpo_tta.schemas", "kafka.record"]
_ROOMS = tuple(f"/{name.removeprefix('grpo_tta.').replace('.', '/')}/" for name in _INSTRUMENTED)
"""The same, as parts of paths."""


def generated(minutes: float, first: int) -> bool:
    """Rounds from this seed on until the time is over; whether none failed."""
    from benchmarks.fuzz_events import Checker, run_pictures, run_round

    end, told = time.monotonic() + 60 * minutes, time.monotonic()
    counts: Counter[str] = Counter()
    checker, seed = Checker(), first
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            try:
                run_round(seed, folder, counts, checker)
                run_pictures(seed, counts)
            except Exception as error:
                sys.excepthook(type(error), error, error.__traceback__)
                return False
            seed += 1
            if time.monotonic() - told > 60 or time.monotonic() >= end:
                told = time.monotonic()
                print(f"seeds {first} to {seed - 1}: {dict(sorted(counts.items()))}", flush=True)
    return True


def guided(minutes: float, seed: int) -> bool:
    """Bytes until the time is over; whether none failed."""
    from benchmarks.fuzz_bytes import KEPT, kept, seeds

    corpus = OUT / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds(200)):
        (corpus / f"seed-{number}").write_bytes(data)
    if KEPT.exists():
        for name, data in kept():
            (corpus / name).write_bytes(data)
    flags = [f"-max_total_time={60 * minutes:.0f}", f"-seed={seed}", f"-artifact_prefix={OUT}/", "-print_final_stats=1"]
    return _atheris(*flags, str(corpus)) == 0


def keep() -> None:
    """Pack the smallest inputs, as long as each goes from a line to another that none before it did."""
    from benchmarks.fuzz_bytes import KEPT, Place, run
    from benchmarks.fuzz_events import Checker

    logging.disable()
    found = {path.read_bytes(): path.name for path in (OUT / "corpus").iterdir()}
    seen: set[tuple[str, int, int]] = set()
    with tempfile.TemporaryDirectory() as folder, tarfile.open(KEPT, "w:xz") as packed:
        place = Place(Path(folder), Checker())
        for data in sorted(found, key=lambda data: (len(data), data)):
            reached: set[tuple[str, int, int]] = set()
            with _steps(reached):
                run(data, place)
            if reached <= seen:
                continue
            seen |= reached
            member = tarfile.TarInfo(found[data])
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
        count = len(packed.getmembers())
    print(f"{count} inputs of {len(found)}, {KEPT.stat().st_size} bytes packed")


@contextmanager
def _steps(reached: set[tuple[str, int, int]]) -> Iterator[None]:
    """Inside, ``reached`` gets each step from a line of ours to another."""
    last: dict[int, int] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if not any(room in name for room in _ROOMS):
            return None
        before, last[id(frame)] = last.get(id(frame), 0), frame.f_lineno
        reached.add((name, before, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def _atheris(*flags: str) -> int:
    """In a process of its own: libFuzzer ends its process, and modules are instrumented as they are imported."""
    bounds = [f"-timeout={_SECONDS}", f"-rss_limit_mb={_MEGABYTES}", f"-max_len={_LONGEST}", "-verbosity=0"]
    return subprocess.run([sys.executable, "-m", "benchmarks.fuzz", "--child", *bounds, *flags]).returncode


def _child(flags: list[str]) -> None:
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

    with atheris.instrument_imports(include=_INSTRUMENTED):
        from benchmarks.fuzz_bytes import Place, run
        from benchmarks.fuzz_events import Checker

    logging.disable()  # what is told of odd input
    counts: Counter[str] = Counter()
    told = [time.monotonic()]
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), Checker())

        def one(data: bytes) -> None:
            counts[run(data, place)] += 1
            if time.monotonic() - told[0] > 60:
                told[0] = time.monotonic()
                print(f"bytes: {dict(sorted(counts.items()))}", flush=True)

        atheris.Setup([sys.argv[0], *flags], one)
        atheris.Fuzz()


def main() -> int:
    """1 where anything failed."""
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="pack the corpus, look for nothing")
    options = parser.parse_args()
    if options.keep:
        keep()
        return 0
    half = options.minutes / 2
    return 0 if generated(half, options.seed) and guided(half, options.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
