"""Run a labelling job: list the source, once or while it is followed, run it slice by slice, write the summary."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from grpo_tta.adapters.storage.listing import Listing, write_listing
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.passed import PassedOver
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.outputs import check_outputs
from grpo_tta.pipeline.checkpoint.partition import Partition, no_fault
from grpo_tta.pipeline.config.job import JobConfig
from grpo_tta.pipeline.config.policy import uri_policy
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.graph import OpenSlice
from grpo_tta.pipeline.label.labeler import StreamLabeler
from grpo_tta.pipeline.label.load import fingerprints_of, kind_of, labeler_of
from grpo_tta.pipeline.run.driver import PARTITION, Grow, Progress, SliceDriver
from grpo_tta.pipeline.run.followed import Following
from grpo_tta.pipeline.run.garbage import settled_heap
from grpo_tta.pipeline.run.places import (
    forget_listing,
    identity_of,
    list_job_source,
    output_stores,
    outputs_claimed,
)
from grpo_tta.pipeline.run.runner import DASK, check_runner, shards_of
from grpo_tta.pipeline.run.shards import Shard, Totals, check_shards
from grpo_tta.pipeline.run.slice import most_records, run_slice
from grpo_tta.pipeline.versions import versions
from grpo_tta.pipeline.watch.health import LiveStatus, metrics_served
from grpo_tta.schemas import Commit, Counters, Plan, Summary

SUMMARY = "summary.json"


def _no_progress(progress: Progress) -> None:
    """Nobody is watching."""


@dataclass(frozen=True)
class JobResult:
    """The summary, and whether anything was left to do."""

    summary: Summary
    """Of all shards, where there are several."""
    finished: bool
    """Of this one."""
    did_nothing: bool


def run_label_job(
    config: JobConfig | ResolvedJob,
    *,
    progress: Callable[[Progress], None] = _no_progress,
    stop: Callable[[], bool] = lambda: False,
    fault_point: Callable[[str], None] = no_fault,
) -> JobResult:
    """Run or resume a job until its source ends or ``stop()`` says so, which is asked between slices. A source that is
    followed does not end.

    Raises `ConfigurationError` before anything was read or written, `JobError` or the source's ``SourceError`` later.
    """
    job = ResolvedJob.of(config)
    config = job.config
    if config.run.runner == DASK:
        raise ConfigurationError(f"run.runner: {DASK} runs shards of a job, see pipeline.run.cluster.run_on_cluster")
    check_runner(config.run)
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    outputs, store = output_stores(config)
    uri_policy(config)
    check_shards(store, shard := Shard.of(job))
    root = store
    if shard is not None:
        job = shard.own_job(job)
        store = ObjectStore(job.config.checkpoint_url)
    with labeler_of(job) as labeler, ExitStack() as claimed:
        log = CheckpointLog(store)
        before = log.latest()
        source = _source(job, root, before, stop, shard)
        claimed.enter_context(outputs_claimed(root, outputs))
        for place in (store, *outputs):
            place.sweep()
        check_outputs(before, log, store, outputs)
        if before is not None and not config.source.follow and before.position == source.total:
            _check_same(before, job, labeler.make.model_fingerprint, outputs)
        driver = _driver(job, labeler, source, log, shard, progress, stop, fault_point)
        position, counters = (before.position, before.counters) if before else (0, Counters())
        progress(Progress(position, source.total, counters, 0.0))
        with metrics_served(config.run, source.status, kind_of(job, labeler)), settled_heap():
            latest = driver.run()
        finished = not config.source.follow and (latest.position if latest else 0) == source.total
    while True:
        totals = shard.totals() if shard else _totals(latest, finished=finished)
        summary = _summary(job, totals, source, labeler)
        for output in outputs:
            _put(output, summary.model_dump_json(indent=2).encode())
        if shard is None or shard.totals() == totals:  # else another shard has committed, and may have written before
            break
    return JobResult(summary, finished, did_nothing=finished and before == latest)


def _driver(
    job: ResolvedJob,
    labeler: StreamLabeler,
    source: "_Source",
    log: CheckpointLog,
    shard: Shard | None,
    progress: Callable[[Progress], None],
    stop: Callable[[], bool],
    fault_point: Callable[[str], None],
) -> SliceDriver:
    checkpoint, fingerprints = job.config.checkpoint, fingerprints_of(job, labeler, source.fingerprint)
    shards = shards_of(job.config.run)
    name = shard.partition if shard else PARTITION
    partition = Partition.of(checkpoint, name, log, fingerprints, fault_point=fault_point, shards=shards)

    def told(step: Progress) -> None:
        source.committed(step)
        progress(step)

    return SliceDriver(
        partition,
        lambda plan, commit: run_slice(job, [_open_slice(job.config, partition, plan, commit)], fault_point)[0],
        total=source.total,
        slice_records=most_records(checkpoint.slice_records, labeler.largest_state_bytes),
        grow=source.grow,
        progress=told,
        stop=stop,
    )


def _open_slice(config: JobConfig, partition: Partition, plan: Plan, commit: Commit | None) -> OpenSlice:
    return OpenSlice(plan, commit, config.checkpoint_url, dated=config.source.follow, rerun=partition.rerun)


def _check_same(done: Commit, job: ResolvedJob, model: str, outputs: Sequence[ObjectStore]) -> None:
    """A finished job is not another one's."""
    if (done.config_fingerprint, done.model_fingerprint) != (job.fingerprint, model):
        changed = _changed(job, outputs)
        raise ConfigurationError(
            f"this job is finished, with other settings or another model ({done.config_fingerprint}, model "
            f"{done.model_fingerprint}{'; ' if changed else ''}{changed}): give the new one another --out"
        )


def _changed(job: ResolvedJob, outputs: Sequence[ObjectStore]) -> str:
    """The keys that the configuration in ``summary.json`` has otherwise."""
    for output in outputs:
        with suppress(OSError, ValueError, KeyError):
            before = dict(_flat(json.loads(output.read(SUMMARY))["configuration"]))
            now = dict(_flat(job.config.shown()))
            keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
            return f"changed: {', '.join(keys)}" if keys else ""
    return ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def _put(output: ObjectStore, summary: bytes) -> None:
    """Unless the place has it."""
    with suppress(FileNotFoundError):
        if output.read(SUMMARY) == summary:
            return
    output.write(SUMMARY, summary)


@dataclass(frozen=True)
class _Source:
    """What the positions count, how many there are, and how more come."""

    fingerprint: str
    total: int
    grow: Grow = lambda position: position
    committed: Callable[[Progress], None] = _no_progress
    status: LiveStatus | None = None
    passed_over: Callable[[], dict[str, int]] = dict


def _source(
    job: ResolvedJob, store: ObjectStore, latest: Commit | None, stop: Callable[[], bool], shard: Shard | None
) -> _Source:
    """Looked at before anything is written."""
    config = job.config
    if latest is None and shard is None:
        forget_listing(store, config.origin)
    if not config.source.follow:
        listing = job_listing(config, store)
        own = listing if shard is None else shard.listing(listing, identity_of(store))
        return _Source(own.fingerprint, len(own), passed_over=lambda: listing.passed_over)
    following = Following(job, store, identity=identity_of(store), stop=stop)
    end = following.begin(latest)
    return _Source(
        f"followed:{config.origin}",
        end,
        following.grow,
        following.committed,
        following.status,
        following.passed_over,
    )


def job_listing(config: JobConfig, store: ObjectStore) -> Listing:
    """The job's listing, made where there is none; the source's first event is looked at before anything is written."""
    listing = Listing.open(store)
    if listing is None:
        passed = PassedOver()
        records = list_job_source(config, passed)
        records = chain([next(records)], records)
        listing = write_listing(store, records, origin=config.origin, job=identity_of(store), passed=passed)
        passed.say(config.source.url)
        return listing
    try:
        listing.check_origin(config.origin, identity_of(store))
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    return listing


def _totals(latest: Commit | None, *, finished: bool) -> Totals:
    """Of a whole job."""
    return Totals(latest.counters, len(latest.states), finished) if latest else Totals(Counters(), 0, finished)


def _summary(job: ResolvedJob, totals: Totals, source: _Source, labeler: StreamLabeler) -> Summary:
    counters, streams, finished = totals
    return Summary(
        finished=finished,
        events=counters.events,
        labels=counters.labels,
        dead_letters=counters.dead_letters,
        updates=counters.updates,
        late=counters.late,
        forgotten=counters.forgotten,
        drift_events=sum(counters.drift_events.values()),
        resets={str(cause): count for cause, count in counters.resets.items()},
        passed_over=source.passed_over(),
        notices=counters.notices,
        streams=streams,
        seconds=counters.seconds,
        images_per_second=counters.labels / counters.seconds if counters.seconds else 0.0,
        forward_equivalents_per_image=counters.forward_equivalents / counters.labels if counters.labels else 0.0,
        model_fingerprint=labeler.make.model_fingerprint,
        config_fingerprint=job.fingerprint,
        method=labeler.make.method,
        versions=versions(),
        configuration=job.config.shown(),
    )
