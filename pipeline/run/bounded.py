"""Run a labelling job: list the source, once or while it is followed, run it slice by slice, write the summary."""

import json
import logging
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from uuid import uuid4

import apache_beam as beam
import torch
from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.worker.statesampler import StateSampler

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.storage.listing import Listing, write_listing
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.source import list_source
from grpo_tta.device import resolve_device
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.packs import PackReader, pack_name
from grpo_tta.pipeline.checkpoint.partition import Fingerprints, Partition, SliceResult, no_fault
from grpo_tta.pipeline.config.job import JobConfig, RunConfig
from grpo_tta.pipeline.config.values import option_name
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.graph import OpenSlice, build
from grpo_tta.pipeline.label.dofn import job_labeler, uri_policy
from grpo_tta.pipeline.label.labeler import Labeled, StreamLabeler
from grpo_tta.pipeline.label.records import RecordMaker, WindowedRef, bad_record
from grpo_tta.pipeline.run.driver import PARTITION, Grow, Progress, SliceDriver
from grpo_tta.pipeline.run.followed import Following
from grpo_tta.pipeline.run.garbage import collect_slice, settled_heap
from grpo_tta.pipeline.versions import versions
from grpo_tta.pipeline.watch import metrics
from grpo_tta.pipeline.watch.health import LiveStatus, metrics_served
from grpo_tta.schemas import Commit, Counters, Plan, Summary

_log = logging.getLogger(__name__)
SUMMARY = "summary.json"
_OWNER = "job.json"
"""Under every place for outputs: whose they are."""
_IDENTITY = "identity.json"
"""Under the checkpoint: the same."""
_KNOWN_TO_FAIL = {
    "DirectRunner": "it means different runners on different machines; name FnApiRunner or PrismRunner",
    "DaskRunner": "it runs no stateful step",
    "SparkRunner": "nobody has seen it keep the state of a Python step",
}


# Each bundle, of which a slice has several, ends by waiting for a thread that samples what it did; left alone, the
# thread sleeps up to 200 ms at a time.
StateSampler.__init__.__defaults__ = (10,)


def _no_progress(progress: Progress) -> None:
    """Nobody is watching."""


@dataclass(frozen=True)
class JobResult:
    """The summary, and whether anything was left to do."""

    summary: Summary
    did_nothing: bool


def run_label_job(
    config: JobConfig,
    *,
    progress: Callable[[Progress], None] = _no_progress,
    stop: Callable[[], bool] = lambda: False,
    fault_point: Callable[[str], None] = no_fault,
) -> JobResult:
    """Run or resume a job until its source ends or ``stop()`` says so, which is asked between slices. A source that is
    followed does not end.

    Raises `ConfigurationError` before anything was read or written, `JobError` or the source's ``SourceError`` later.
    """
    check_runner(config.run)
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    outputs, store = output_stores(config)
    uri_policy(config)
    labeler = job_labeler(config)
    log = CheckpointLog(store)
    before = log.latest()
    source = _source(config, store, before, stop)
    claim_outputs(store, outputs)
    for place in (store, *outputs):
        place.sweep()
    if before is not None and not config.source.follow and before.position == source.total:
        _check_same(before, config.fingerprint(), labeler.make.model_fingerprint)
    partition = Partition(
        PARTITION,
        log,
        fingerprints_of(config, labeler, source.fingerprint),
        keep=config.checkpoint.keep,
        reset_on_mismatch=config.checkpoint.on_state_mismatch == "reset",
        fault_point=fault_point,
    )

    def told(step: Progress) -> None:
        source.committed(step)
        progress(step)

    driver = SliceDriver(
        partition,
        lambda plan, commit: run_slice(config, [_open_slice(config, plan, commit)], fault_point)[0],
        total=source.total,
        slice_records=config.checkpoint.slice_records,
        grow=source.grow,
        progress=told,
        stop=stop,
    )
    position, counters = (before.position, before.counters) if before else (0, Counters())
    progress(Progress(position, source.total, counters, 0.0))
    with metrics_served(config.run, source.status), settled_heap():
        latest = driver.run()
    finished = not config.source.follow and latest is not None and latest.position == source.total
    summary = _summary(config, latest, finished, labeler.make.model_fingerprint, labeler.make.method)
    did_nothing = before is not None and before == latest
    for output in outputs:
        if _stale(output, summary):
            output.write(SUMMARY, summary.model_dump_json(indent=2).encode())
    return JobResult(summary, did_nothing)


def _open_slice(config: JobConfig, plan: Plan, commit: Commit | None) -> OpenSlice:
    return OpenSlice(plan, commit, config.checkpoint_url, dated=config.source.follow)


def claim_outputs(checkpoint: ObjectStore, outputs: Sequence[ObjectStore]) -> None:
    """Every place for outputs belongs to the job of one checkpoint: files of two jobs would count events twice.

    Raises `ConfigurationError` for one that holds another job's.
    """
    checkpoint.create(_IDENTITY, json.dumps({"job": uuid4().hex}).encode())
    identity = checkpoint.read(_IDENTITY)
    for output in outputs:
        if not output.create(_OWNER, identity) and output.read(_OWNER) != identity:
            raise ConfigurationError(
                f"output: {output.url} holds the results of another job, its checkpoint is not {checkpoint.url}: "
                "give this job another --out, or that checkpoint"
            )


def _check_same(done: Commit, config: str, model: str) -> None:
    """A finished job is not another one's."""
    if (done.config_fingerprint, done.model_fingerprint) != (config, model):
        raise ConfigurationError(
            f"this job is finished, with other settings or another model ({done.config_fingerprint}, model "
            f"{done.model_fingerprint}): give the new one another --out"
        )


def _stale(output: ObjectStore, summary: Summary) -> bool:
    """Whether the place has no summary, or one of another state of the job."""
    try:
        found = Summary.model_validate_json(output.read(SUMMARY))
    except (FileNotFoundError, ValueError):
        return True
    own = {"versions", "configuration"}
    return found.model_dump(exclude=own) != summary.model_dump(exclude=own)


def fingerprints_of(config: JobConfig, labeler: StreamLabeler, source: str) -> Fingerprints:
    """What the labels of this process depend on."""
    device = resolve_device(config.model.device).type
    packages = " ".join(f"{name}-{number}" for name, number in versions().items())
    return Fingerprints(
        config.fingerprint(),
        labeler.make.model_fingerprint,
        source,
        torch.get_num_threads(),
        f"{device} {platform.machine()} {packages}",
    )


def check_job(config: JobConfig, images: int) -> tuple[RecordMaker, Labeled]:
    """Label a few of the first images that the source lists, of all its streams; writes nothing.

    Raises as `run_label_job` does.
    """
    check_runner(config.run)
    uri_policy(config)
    outputs, checkpoint = output_stores(config)
    for store in (*outputs, checkpoint):
        store.check_access()
    labeler = job_labeler(config)
    total = Labeled(labeler.initial_state())
    streams: dict[str, list[WindowedRef]] = {}
    for record in _sample(list_job_source(config), images):
        if isinstance(record, BadRecord):
            total.dead_letters.append(bad_record(record))
        else:
            event = WindowedRef(record, (record.event_time, record.event_time))
            streams.setdefault(record.stream, []).append(event)
    for _, events in sorted(streams.items()):
        ordered = sorted(events, key=lambda event: (event.ref.event_time, event.ref.coordinate))
        labeled = labeler.label(ordered, labeler.initial_state())
        total.labels += labeled.labels
        total.dead_letters += labeled.dead_letters
    return labeler.make, total


def _sample(records: Iterator[ImageRef | BadRecord], most: int) -> list[ImageRef | BadRecord]:
    """Of the first thousand the earliest of each stream in turn; what is no event counts as a stream."""
    first = sorted(islice(records, 1000), key=lambda record: (getattr(record, "event_time", 0), record.coordinate))
    ranks: Counter[str] = Counter()
    ranked: list[tuple[int, str, int]] = []
    for index, record in enumerate(first):
        stream = getattr(record, "stream", "")
        ranked.append((ranks[stream], stream, index))
        ranks[stream] += 1
    return [first[index] for _, _, index in sorted(ranked)[:most]]


def check_runner(run: RunConfig) -> None:
    """Raises `ConfigurationError` for a Beam runner that cannot run this graph, or that cannot be made."""
    if run.runner in _KNOWN_TO_FAIL:
        raise ConfigurationError(f"run.runner: {run.runner} cannot run this graph: {_KNOWN_TO_FAIL[run.runner]}")
    try:
        pipeline = _pipeline(run)
        shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)  # a pipeline that never runs leaves it behind
    except (ValueError, RuntimeError, ImportError, AttributeError) as error:
        raise ConfigurationError(f"run.runner: {run.runner!r} cannot be made: {error}") from error
    # A job server has options of its own, which only it can judge.
    unknown = [] if isinstance(pipeline.runner, PortableRunner) else _unknown_options(run.beam_options)
    if unknown:
        raise ConfigurationError(
            f"options after -- go to Beam, which does not know {' '.join(map(option_name, unknown))}: "
            "options of grpo-tta itself come before --"
        )


def _unknown_options(options: Sequence[str]) -> list[str]:
    """What none of Beam's option classes takes; Beam itself drops it in silence."""
    parser = _BeamArgumentParser(allow_abbrev=False)
    for kind in PipelineOptions.__subclasses__():
        kind._add_argparse_args(parser)
    return list(parser.parse_known_args(list(options))[1])


def output_stores(config: JobConfig) -> tuple[list[ObjectStore], ObjectStore]:
    """Of the outputs that are folders or buckets, and of the checkpoint."""
    try:
        return [ObjectStore(url) for url in config.folders], ObjectStore(config.checkpoint_url)
    except ValueError as error:
        raise ConfigurationError(f"output: {error}") from error


def _pipeline(run: RunConfig) -> beam.Pipeline:
    return beam.Pipeline(runner=run.runner, options=PipelineOptions(list(run.beam_options)))


def list_job_source(config: JobConfig) -> Iterator[ImageRef | BadRecord]:
    """The source's events, unsorted; raises `ConfigurationError` at once and ``SourceError`` while iterating."""
    source = config.source
    try:
        return list_source(source.url, stream_pattern=source.stream_pattern, time_pattern=source.time_pattern)
    except ValueError as error:
        raise ConfigurationError(f"source: {error}") from error


@dataclass(frozen=True)
class _Source:
    """What the positions count, how many there are, and how more come."""

    fingerprint: str
    total: int
    grow: Grow = lambda position: position
    committed: Callable[[Progress], None] = _no_progress
    status: LiveStatus | None = None


def _source(config: JobConfig, store: ObjectStore, latest: Commit | None, stop: Callable[[], bool]) -> _Source:
    """Looked at before anything is written."""
    if not config.source.follow:
        listing = _listing(config, store)
        return _Source(listing.fingerprint, len(listing))
    following = Following(config, store, stop=stop)
    end = following.begin(latest)
    return _Source(f"followed:{config.origin}", end, following.grow, following.committed, following.status)


def _listing(config: JobConfig, store: ObjectStore) -> Listing:
    """The job's listing, made where there is none; the source's first event is looked at before anything is written."""
    listing = Listing.open(store)
    if listing is None:
        records = list_job_source(config)
        return write_listing(store, chain([next(records)], records), origin=config.origin)
    try:
        listing.check_origin(config.origin)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    return listing


def run_slice(
    config: JobConfig, slices: Sequence[OpenSlice], fault_point: Callable[[str], None] = no_fault
) -> list[SliceResult]:
    """Steps 2 and 3 of a slice, one graph over all its partitions; a result for each, in order."""
    fault_point("before:2")
    named = ", ".join(f"{part.plan.sequence} of {part.partition}" for part in slices)
    metrics.begin_slice()
    try:
        _run_graph(config, slices, fault_point)
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        _log.debug("slice %s failed", named, exc_info=True)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
        raise JobError(f"slice {named} failed and was not committed: {_cause(lines)}") from error
    metrics.end_slice()
    collect_slice()
    return [slice_result(part) for part in slices]


def _run_graph(config: JobConfig, slices: Sequence[OpenSlice], fault_point: Callable[[str], None]) -> None:
    pipeline = _pipeline(config.run)
    build(pipeline, config, slices, fault_point)
    pipeline.run().wait_until_finish()


def slice_result(part: OpenSlice) -> SliceResult:
    """What step 3 wrote down of a slice's part."""
    reader, name = PackReader(ObjectStore(part.checkpoint_url)), pack_name(part.plan)
    record = reader.record(name)
    counters = Counters.model_validate(record["counters"])
    return SliceResult(name, tuple(reader.streams(name)), tuple(record["stepped"]), counters)


def _cause(lines: list[str]) -> str:
    """The line of a runner's traceback that names the error."""
    named = [line for line in lines if "Error" in line.split(":", 1)[0] or "Exception" in line.split(":", 1)[0]]
    return (named or lines)[-1]


def _summary(config: JobConfig, latest: Commit | None, finished: bool, model: str, method: str) -> Summary:
    counters = latest.counters if latest else Counters()
    return Summary(
        finished=finished,
        events=counters.events,
        labels=counters.labels,
        dead_letters=counters.dead_letters,
        updates=counters.updates,
        late=counters.late,
        drift_events=sum(counters.drift_events.values()),
        resets={str(cause): count for cause, count in counters.resets.items()},
        streams=len(latest.states) if latest else 0,
        seconds=counters.seconds,
        images_per_second=counters.labels / counters.seconds if counters.seconds else 0.0,
        forward_equivalents_per_image=counters.forward_equivalents / counters.labels if counters.labels else 0.0,
        model_fingerprint=model,
        config_fingerprint=config.fingerprint(),
        method=method,
        versions=versions(),
        configuration=config.shown(),
    )
