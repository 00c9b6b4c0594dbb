"""The continuous mode on Prism against the embedded live mode, over the same topics.

A local broker with topics of four partitions, eight streams, inline images; one thread of torch in either. The
embedded mode is ``grpo-tta label``, the other ``python -m grpo_tta.beam.live`` on a Prism beside it, whose workers are
threads of that process. Both are told the same: slices or batches of a second, one second of lateness, windows
``fixed:1s``. A slice has at most 32 records a partition, which is more than come in a second: a backlog takes many
slices, so that the time between its labels is a rate.

Both are measured once the job has labelled its first images, so without its start. Rate: images that are all sent at
once, from the broker's stamp of the first to that of the last label: Prism writes many at a time. Age: images are sent
at half of the lower rate; a label's stamp less its event's, of the second half. The two take turns; the figures are
medians of the rounds' ratios.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apache_beam

from benchmarks.live import stamps
from benchmarks.report import Bar, finish, parser
from benchmarks.topics import make_topic, send
from demo.broker import LocalBroker
from demo.broker.process import ChildProcess
from demo.broker.quorum import free_ports
from grpo_tta.demo.feed import write_feed

PATIENCE = 300.0
FIRST = 64
"""Images before what is measured."""
JOB = """
model: {threads: 1}
event_time: {window: "fixed:1s", allowed_lateness: 1s}
checkpoint: {slice_seconds: 1s, slice_records: 32}
kafka: {start: earliest}
"""
MODES = ("embedded", "prism")


@contextmanager
def labelling(mode: str, bootstrap: str, topic: str, folder: Path, prism: str) -> Iterator[ChildProcess]:
    """A process that labels ``topic`` into ``topic-labels``."""
    (folder / "job.yaml").write_text(JOB)
    source, out = f"kafka://{bootstrap}/{topic}", f"kafka://{bootstrap}/{topic}-labels"
    common = ["--source", source, "--out", out, "--config", str(folder / "job.yaml")]
    if mode == "embedded":
        command = [sys.executable, "-m", "grpo_tta.pipeline.cli", "label", *common]
        command += ["--checkpoint", str(folder / topic), "--group", topic]
    else:
        command = [sys.executable, "-m", "grpo_tta.beam.live", *common, "--states", str(folder / topic), "--"]
        command += ["--runner=PortableRunner", f"--job_endpoint={prism}", "--environment_type=LOOPBACK"]
    process = ChildProcess(command, folder / f"{topic}.log")
    try:
        yield process
    finally:
        process.terminate(20)


def labels(bootstrap: str, topic: str, images: int, process: ChildProcess) -> list[tuple[float, str]]:
    """Stamp and coordinate of every label, once there are so many. Raises ``RuntimeError`` where they do not come."""
    deadline = time.monotonic() + PATIENCE
    while len(found := stamps(bootstrap, f"{topic}-labels")) < images:
        if not process.alive or time.monotonic() > deadline:
            raise RuntimeError(f"{len(found)} of {images} labels came:\n{process.said()}")
        time.sleep(1.0)
    return sorted((stamp, headers["coordinate"].decode()) for stamp, headers in found.values())


def times(
    mode: str, bootstrap: str, feed: Path, folder: Path, prism: str, images: int, topic: str, a_second: float | None
) -> list[tuple[float, float]]:
    """Of each image when its event and when its label was appended, in the order of events; ``a_second``: so many are
    sent, without it all at once."""
    for name in (topic, f"{topic}-labels"):
        make_topic(bootstrap, name)
    command = [sys.executable, "-m", "benchmarks.topics", bootstrap, topic, str(feed), str(images), str(a_second)]
    with labelling(mode, bootstrap, topic, folder, prism) as process:
        send(bootstrap, topic, feed, FIRST)
        first = {coordinate for _, coordinate in labels(bootstrap, topic, FIRST, process)}
        if a_second is None:
            send(bootstrap, topic, feed, images)
        else:
            subprocess.run(command, check=True)
        came = labels(bootstrap, topic, FIRST + images, process)
    sent = {
        f"{topic}-{partition}-{offset:019d}": at for (partition, offset), (at, _) in stamps(bootstrap, topic).items()
    }
    return sorted((sent[coordinate], stamp) for stamp, coordinate in came if coordinate not in first)


def rate(found: list[tuple[float, float]]) -> float:
    """Images a second of some that came at once; takes what `times` gives."""
    return len(found) / (max(labelled for _, labelled in found) - found[0][0])


def ages(found: list[tuple[float, float]]) -> list[float]:
    """Seconds from the append of an event to that of its label, sorted, of the second half of the events."""
    return sorted(labelled - sent for sent, labelled in found[len(found) // 2 :])


def main() -> int:
    """Print the rounds and the bars."""
    flags = parser(__doc__)
    flags.add_argument("--images", type=int, default=2400, help="of a backlog (default: 2400)")
    flags.add_argument("--seconds", type=int, default=60, help="for which events are sent (default: 60)")
    flags.add_argument("--rounds", type=int, default=3, help="default: 3")
    built = Path("build/prism") / apache_beam.__version__ / "prism"
    flags.add_argument("--prism", type=Path, default=built, help="default: that of 'make prism'")
    arguments = flags.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    ratios: dict[str, list[float]] = {"rate": [], "p95": []}
    with tempfile.TemporaryDirectory() as name, LocalBroker(Path(name, "broker")) as broker:
        folder, feed = Path(name), Path(name, "feed")
        write_feed(feed, 0, 1200)
        job, web = free_ports(2)
        runner = ChildProcess([str(arguments.prism), f"-job_port={job}", f"-web_port={web}"], folder / "prism.log")
        place = (broker.bootstrap, feed, folder, f"127.0.0.1:{job}")
        for number in range(1, arguments.rounds + 1):
            rates = {mode: rate(times(mode, *place, arguments.images, f"rate-{number}-{mode}", None)) for mode in MODES}
            half = min(rates.values()) / 2
            images = round(half * arguments.seconds)
            waited = {mode: ages(times(mode, *place, images, f"age-{number}-{mode}", half)) for mode in MODES}
            p95 = {mode: found[int(0.95 * len(found))] for mode, found in waited.items()}
            ratios["rate"].append(rates["prism"] / rates["embedded"])
            ratios["p95"].append(p95["prism"] / p95["embedded"])
            said = [f"{mode} {rates[mode]:.1f} images/s, p95 {p95[mode]:.2f} s" for mode in MODES]
            print(f"round {number}: {'; '.join(said)}; sent at {half:.1f} images/s", flush=True)
        runner.kill()
    bars = [
        Bar("images/s, Prism against embedded", statistics.median(ratios["rate"]), 0.7, unit="x"),
        Bar("age of a label, p95, Prism against embedded", statistics.median(ratios["p95"]), 2, at_most=True, unit="x"),
    ]
    return finish(arguments, bars, ratios)


if __name__ == "__main__":
    sys.exit(main())
