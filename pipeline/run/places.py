"""Where a job reads and writes: its source, its outputs, its checkpoint, and whose they are."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import uuid4

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.rows import KINDS
from grpo_tta.adapters.storage.listing import FOLDER, Listing
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.passed import PassedOver
from grpo_tta.adapters.storage.sealed import read_sealed, seal_json
from grpo_tta.adapters.storage.source import list_source
from grpo_tta.pipeline.config.job import JobConfig, parse_duration
from grpo_tta.pipeline.errors import ConfigurationError

_OWNER = "job.json"
"""Under every place for outputs: whose they are."""
_IDENTITY = "identity.json"
"""Under the checkpoint: whose it is."""


def output_stores(config: JobConfig) -> tuple[list[ObjectStore], ObjectStore]:
    """Of the outputs that are folders or buckets, and of the checkpoint."""
    try:
        return [ObjectStore(url) for url in config.folders], ObjectStore(config.checkpoint_url)
    except ValueError as error:
        raise ConfigurationError(f"output: {error}") from error


def identity_of(checkpoint: ObjectStore) -> str:
    """Of the job of a checkpoint, made where there is none."""
    checkpoint.create(_IDENTITY, seal_json(_IDENTITY, {"job": uuid4().hex}))
    return str(read_sealed(checkpoint, _IDENTITY)["job"])


def claim_outputs(checkpoint: ObjectStore, outputs: Sequence[ObjectStore]) -> None:
    """Every place for outputs belongs to the job of one checkpoint: files of two jobs would count events twice.

    Raises `ConfigurationError` for one that holds another job's.
    """
    owner = seal_json(_OWNER, {"job": identity_of(checkpoint)})
    for output in outputs:
        if not output.create(_OWNER, owner) and output.read(_OWNER) != owner:
            raise ConfigurationError(
                f"output: {output.url} holds the results of another job, its checkpoint is not {checkpoint.url}: "
                f"give this job another --out, or that checkpoint ({_OWNER} says whose they are)"
            )


@contextmanager
def outputs_claimed(checkpoint: ObjectStore, outputs: Sequence[ObjectStore]) -> Iterator[None]:
    """`claim_outputs` around a block. Places stay claimed once anything was committed, or lies there."""
    claim_outputs(checkpoint, outputs)
    try:
        yield
    finally:
        with suppress(OSError):
            if not _has_commits(checkpoint):
                for output in outputs:
                    if not any(output.names(f"{kind}/") for kind in KINDS):
                        output.delete(_OWNER)


def _has_commits(checkpoint: ObjectStore) -> bool:
    return bool(checkpoint.names("commits/")) or any("/commits/" in name for name in checkpoint.names("partitions/"))


def forget_listing(checkpoint: ObjectStore, origin: str) -> None:
    """Of a job that has committed nothing: what it listed of a source other than ``origin`` goes."""
    listing = Listing.open(checkpoint)
    if listing is not None and listing.origin != origin:
        for name in reversed(checkpoint.names(f"{FOLDER}/")):  # the index first
            checkpoint.delete(name)


def list_job_source(config: JobConfig, passed: PassedOver | None = None) -> Iterator[ImageRef | BadRecord]:
    """The source's events, unsorted; ``passed`` counts what is passed over. Raises `ConfigurationError` at once and
    ``SourceError`` while iterating."""
    source = config.source
    try:
        return list_source(
            source.url,
            stream_pattern=source.stream_pattern,
            time_pattern=source.time_pattern,
            every=parse_duration(source.every) if source.every else None,
            passed=passed,
        )
    except ValueError as error:
        raise ConfigurationError(f"source: {error}") from error
