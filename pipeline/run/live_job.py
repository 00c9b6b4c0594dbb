"""Run a live job: a Kafka source labelled slice by slice by this process, alone or as one of its consumer group."""

import os
import socket
from collections.abc import Callable

import torch

from grpo_tta.adapters.kafka.sink import KafkaSink
from grpo_tta.adapters.kafka.transactions import TransactionalSink
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.partition import no_fault
from grpo_tta.pipeline.checkpoint.protocol import BucketProtocol, CommitProtocol, KafkaProtocol
from grpo_tta.pipeline.config.job import JobConfig, is_kafka, parse_duration
from grpo_tta.pipeline.config.kafka import make_member, make_offsets, out_settings, settings_of
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.label.load import fingerprints_of, images_labelled, kind_of, labeler_of
from grpo_tta.pipeline.run.garbage import settled_heap
from grpo_tta.pipeline.run.live import LiveDriver
from grpo_tta.pipeline.run.places import output_stores, outputs_claimed
from grpo_tta.pipeline.run.runner import check_runner
from grpo_tta.pipeline.run.slice import run_slice
from grpo_tta.pipeline.watch.health import LiveStatus, metrics_served
from grpo_tta.pipeline.watch.progress import LiveProgress, Watcher
from grpo_tta.pipeline.watch.status import note_job

_STALE_SLICES = 12
"""A job that has neither come round nor labelled an image for so many slices' time is not ready."""


def run_live_job(
    config: JobConfig | ResolvedJob,
    *,
    progress: Callable[[LiveProgress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
    fault_point: Callable[[str], None] = no_fault,
) -> None:
    """Label until ``stop()``, or until ``kafka.until`` is reached by all that this process owns.

    Raises `ConfigurationError` before anything was read or written, `JobError` or a ``KafkaFailure`` later.
    """
    job = ResolvedJob.of(config)
    config = job.config
    check_runner(config.run, transactional=config.kafka.transactional)
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    folders, store = output_stores(config)
    _check_sharing(config, store)
    source = settings_of(config, config.source.url)
    outputs = [out_settings(config, url) for url in config.outputs if is_kafka(url)]
    slice_seconds = parse_duration(config.checkpoint.slice_seconds) / 1e6
    status = _Both(LiveStatus(max(30.0, _STALE_SLICES * slice_seconds), lambda: images_labelled(job)), progress)
    with labeler_of(job) as labeler:
        source.probe()
        for settings, topics, plan in outputs:
            sink = KafkaSink(settings, topics, plan=plan)
            sink.open()
            sink.close()
        note_job(store, source, config.kafka.group, transactional=config.kafka.transactional)
        fingerprints = fingerprints_of(job, labeler, config.source.url)
        with (
            outputs_claimed(store, folders),
            metrics_served(config.run, status.status, kind_of(job, labeler)),
            settled_heap(),
        ):
            LiveDriver(
                config,
                fingerprints,
                lambda: make_member(config),
                make_offsets(config),
                lambda parts: run_slice(job, parts, fault_point),
                f"{socket.gethostname()}:{os.getpid()}",
                protocol=_protocol(config, fault_point),
                state_bytes=labeler.largest_state_bytes,
                stop=stop,
                watcher=status,
                fault_point=fault_point,
            ).run()


class _Both(Watcher):
    """Metrics and the caller's own progress."""

    def __init__(self, status: LiveStatus, progress: Callable[[LiveProgress], None]) -> None:
        self.status = status
        self._progress = progress

    def owns(self, partitions: int) -> None:
        self.status.owns(partitions)

    def turned(self) -> None:
        self.status.turned()

    def failed(self, error: Exception) -> None:
        self.status.failed(error)

    def committed(self, progress: LiveProgress) -> None:
        self.status.committed(progress)
        self._progress(progress)


def _check_sharing(config: JobConfig, store: ObjectStore) -> None:
    """Processes that share partitions need a store where exactly one of them can create an object."""
    if config.kafka.partitions is None and not store.supports_exclusive_create:
        raise ConfigurationError(
            f"checkpoint.url: {store.url} cannot create objects exclusively, which processes that share partitions "
            "rely on: use a local folder, S3, Google or Azure, or give each process its own --partitions"
        )


def _protocol(config: JobConfig, fault_point: Callable[[str], None]) -> CommitProtocol:
    if not config.kafka.transactional:
        return BucketProtocol(fault_point)
    (url,) = (url for url in config.outputs if is_kafka(url))
    settings, topics, plan = out_settings(config, url)

    def make(partition: str) -> TransactionalSink:
        return TransactionalSink(settings, topics, group=config.kafka.group, partition=partition, plan=plan)

    return KafkaProtocol(make, fault_point)
