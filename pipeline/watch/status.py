"""What a checkpoint says of its job: positions, lag and owners of partitions, and what each stream has learnt."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from grpo_tta.adapters.storage.listing import Listing
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sealed import read_sealed, seal_json
from grpo_tta.pipeline.checkpoint.known import PARTITIONS, partition_url
from grpo_tta.pipeline.checkpoint.log import CheckpointLog, MissingFile
from grpo_tta.pipeline.checkpoint.outputs import check_outputs
from grpo_tta.pipeline.checkpoint.packs import PackReader
from grpo_tta.pipeline.config.values import default_checkpoint
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.windows import to_datetime
from grpo_tta.schemas.base import Record
from grpo_tta.state import StateHeader, read_header

if TYPE_CHECKING:
    from grpo_tta.adapters.kafka.settings import KafkaSettings

_JOB = "live.json"
"""Not ``job.json``: under a place for outputs, which may be the same folder, that says whose they are."""


class PartitionStatus(Record):
    """One partition; of what is listed the only one is ``storage``."""

    partition: str
    position: int | None
    """Of the next event to be labelled."""
    end: int | None
    lag: int | None
    """None where the source does not answer, and before the first commit."""
    epoch: int | None
    """Grows whenever a process claims the partition."""
    owner: str | None
    """The last process to claim it; whether it lives is not known here."""
    events: int
    labels: int
    dead_letters: int


class StreamStatus(Record):
    """One stream. Times are event times."""

    stream: str
    partition: str
    frames: int
    updates: int
    newest: str | None
    """Of its images."""
    frames_since_reset: int
    warming_up: bool
    """The guard is making the stream's reference, and blind to shifts."""
    resets: dict[str, int]
    """How many, by cause."""
    last_reset: str | None
    last_reset_cause: str | None
    state_bytes: int


class Status(Record):
    """Of a whole job: what ``grpo-tta status --json`` prints."""

    partitions: list[PartitionStatus]
    streams: list[StreamStatus]

    def to_json(self) -> str:
        """For scripts."""
        return json.dumps(self.model_dump(), indent=2)


def note_job(store: ObjectStore, settings: "KafkaSettings", group: str, *, transactional: bool = False) -> None:
    """Write down where the positions are of, so that `read_status` can ask for the lag. Holds no secret.

    Raises `ConfigurationError` where the checkpoint is of a job for which something else decides what counts: the one
    would take the other's unfinished manifests for commits, or not find them.
    """
    before = _noted(store)
    truths = {True: f"transactions of group {before.get('group')!r}", False: "its own commits"}
    theirs = before.get("transactional", transactional)
    if theirs != transactional or (theirs and before and before["group"] != group):
        raise ConfigurationError(
            f"kafka.transactional: the checkpoint {store.url} counts by {truths[theirs]}: go on so, or give another "
            "--checkpoint"
        )
    noted = {
        "servers": settings.servers,
        "security": asdict(settings.security),
        "group": group,
        "transactional": transactional,
    }
    store.write(_JOB, seal_json(_JOB, noted))


def _noted(store: ObjectStore) -> dict[str, Any]:
    """What `note_job` wrote down, if it has."""
    return dict(read_sealed(store, _JOB)) if store.exists(_JOB) else {}


def partition_logs(checkpoint_url: str) -> dict[str, ObjectStore]:
    """The stores of all partitions' logs: of a live job by partition, of a bounded one under ``storage``.

    Raises `JobError` where there is no checkpoint.
    """
    root = ObjectStore(checkpoint_url)
    names = root.names(f"{PARTITIONS}/")
    live = sorted({name.split("/")[1] for name in names if name.count("/") > 1})
    if live:
        return {name: ObjectStore(partition_url(checkpoint_url, name)) for name in live}
    if Listing.open(root) is None and not root.names("commits/"):
        raise JobError(f"{checkpoint_url!r} holds no checkpoint")
    return {"storage": root}


def check_written(out: str) -> None:
    """Whether a job's output files are what it wrote, as far as a checkpoint in its usual place beside them says: for
    those who read them. Raises `DamagedCheckpoint`, which names the file."""
    try:
        stores = partition_logs(default_checkpoint(out))
    except JobError:  # another place, or none
        return
    for store in stores.values():
        log = CheckpointLog(store)
        try:
            check_outputs(log.latest(), log, store, [ObjectStore(out)])
        except (FileNotFoundError, MissingFile):  # a job that runs has collected it meanwhile
            continue


def read_status(checkpoint_url: str) -> Status:
    """All partitions and streams; raises `JobError` where there is no checkpoint."""
    stores = partition_logs(checkpoint_url)
    ends = _ends(ObjectStore(checkpoint_url), stores)
    partitions, streams = [], []
    for name, store in stores.items():
        log = CheckpointLog(store)
        commit, owner = log.latest(), log.owner()
        position, end = (commit.position if commit else None), ends.get(name)
        counters = commit.counters if commit else None
        partitions.append(
            PartitionStatus(
                partition=name,
                position=position,
                end=end,
                lag=None if end is None or position is None else max(end - position, 0),
                epoch=owner[0] if owner else (commit.epoch if commit else None),
                owner=owner[1] if owner else None,
                events=counters.events if counters else 0,
                labels=counters.labels if counters else 0,
                dead_letters=counters.dead_letters if counters else 0,
            )
        )
        reader = PackReader(store, commit=commit)
        for stream, pack in sorted((commit.states if commit else {}).items()):
            data = reader.read(pack, stream)
            streams.append(_stream(stream, name, read_header(data), len(data)))
    return Status(partitions=partitions, streams=streams)


def request_reset(checkpoint_url: str, stream: str) -> list[str]:
    """Ask the owners of every partition that knows ``stream`` to reset it; raises `JobError` where none does."""
    asked = []
    for name, store in partition_logs(checkpoint_url).items():
        log = CheckpointLog(store)
        commit = log.latest()
        if commit is not None and stream in commit.states:
            log.request_reset(stream)
            asked.append(name)
    if not asked:
        known = sorted(set(_known(checkpoint_url)))
        some = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
        raise JobError(f"no partition knows stream {stream!r}; there are {some or 'none yet'}")
    return asked


def _known(checkpoint_url: str) -> Iterator[str]:
    for store in partition_logs(checkpoint_url).values():
        commit = CheckpointLog(store).latest()
        yield from commit.states if commit else ()


def _ends(root: ObjectStore, stores: dict[str, ObjectStore]) -> dict[str, int]:
    """The end of every partition that can be asked."""
    noted = _noted(root)
    if not noted:
        listings = {name: Listing.open(store) for name, store in stores.items()}
        return {name: len(listing) for name, listing in listings.items() if listing is not None}
    from grpo_tta.adapters.kafka.address import KafkaSecurity
    from grpo_tta.adapters.kafka.errors import KafkaFailure
    from grpo_tta.adapters.kafka.offsets import KafkaOffsets
    from grpo_tta.adapters.kafka.settings import KafkaSettings

    settings = KafkaSettings(tuple(noted["servers"]), KafkaSecurity(**noted["security"]))
    try:
        with KafkaOffsets(settings, group=noted["group"]) as offsets:
            return offsets.end(list(stores))
    except (KafkaFailure, ValueError):
        return {}


def _stream(stream: str, partition: str, state: StateHeader, size: int) -> StreamStatus:
    def time_of(key: str) -> str | None:
        return to_datetime(int(state.position[key])).isoformat() if key in state.position else None

    cause = state.position.get("reset_cause")
    return StreamStatus(
        stream=stream,
        partition=partition,
        frames=state.counters.get("frames", 0),
        updates=state.counters.get("updates", 0),
        newest=time_of("event_time"),
        frames_since_reset=int(state.method.get("frames", 0)),
        warming_up="rows" in state.guard_names,
        resets={
            name.removeprefix("resets_"): count
            for name, count in sorted(state.counters.items())
            if name.startswith("resets_")
        },
        last_reset=time_of("reset_time"),
        last_reset_cause=str(cause) if cause is not None else None,
        state_bytes=size,
    )
