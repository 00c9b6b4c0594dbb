"""Where a job reads and writes: its source, its outputs, its checkpoint, and whose they are."""

import json
from collections.abc import Iterator, Sequence
from uuid import uuid4

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.storage.listing import FOLDER, Listing
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.passed import PassedOver
from grpo_tta.adapters.storage.source import list_source
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.config.job import JobConfig
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.run.driver import PARTITION
from grpo_tta.pipeline.sinks import leftovers

_OWNER = "job.json"
"""Under every place for outputs: whose they are."""
_IDENTITY = "identity.json"
"""Under the checkpoint: the same."""


def output_stores(config: JobConfig) -> tuple[list[ObjectStore], ObjectStore]:
    """Of the outputs that are folders or buckets, and of the checkpoint."""
    try:
        return [ObjectStore(url) for url in config.folders], ObjectStore(config.checkpoint_url)
    except ValueError as error:
        raise ConfigurationError(f"output: {error}") from error


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


def forget_uncommitted(checkpoint: ObjectStore, outputs: Sequence[ObjectStore], origin: str) -> None:
    """An attempt at another source that committed nothing binds nobody: its listing, its plan and what it wrote go."""
    listing = Listing.open(checkpoint)
    if listing is None or listing.origin == origin:
        return
    stem = f"{PARTITION}-{0:012d}"
    plan = CheckpointLog(checkpoint).open_plan(None)
    stems = [stem] if plan is None else [stem, f"{plan.clock:%Y-%m-%d}/{stem}"]
    identity = checkpoint.read(_IDENTITY) if checkpoint.names(_IDENTITY) else b""
    for output in outputs:
        if output.names(_OWNER) and output.read(_OWNER) == identity:
            for name in (name for one in stems for name in leftovers(one, ())):
                output.delete(name)
    for name in (*checkpoint.names("plans/"), *checkpoint.names(f"{FOLDER}/")):
        checkpoint.delete(name)


def list_job_source(config: JobConfig, passed: PassedOver | None = None) -> Iterator[ImageRef | BadRecord]:
    """The source's events, unsorted; ``passed`` counts what is passed over. Raises `ConfigurationError` at once and
    ``SourceError`` while iterating."""
    source = config.source
    try:
        return list_source(
            source.url, stream_pattern=source.stream_pattern, time_pattern=source.time_pattern, passed=passed
        )
    except ValueError as error:
        raise ConfigurationError(f"source: {error}") from error
