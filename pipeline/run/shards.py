"""One process of several that share a listing: it labels the streams whose names hash to its number.

All of them have one ``--out`` and one checkpoint, which holds the source's listing. Under its
``partitions/shard-I-of-N`` each has its part of the listing, its plans, commits and states. No two share any.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from grpo_tta.adapters.events import BadRecord, ImageRef, group_of
from grpo_tta.adapters.storage.listing import Listing, write_listing
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sealed import read_sealed, seal_json
from grpo_tta.pipeline.checkpoint.known import partition_url
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.config.values import parse_shard
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.schemas import Counters

_NOTE = "shards.json"


class Totals(NamedTuple):
    """Of a job."""

    counters: Counters
    streams: int
    finished: bool


@dataclass(frozen=True)
class Shard:
    """Number ``index`` of ``count``, of the job whose checkpoint is ``root``."""

    index: int
    count: int
    root: ObjectStore

    @classmethod
    def of(cls, job: ResolvedJob) -> "Shard | None":
        """What the job is told to be; ``None`` where it is whole."""
        if job.config.run.shard is None:
            return None
        return cls(*parse_shard(job.config.run.shard), ObjectStore(job.config.checkpoint_url))

    @property
    def partition(self) -> str:
        """Of its plans, and in the names of its files."""
        return self._name(self.index)

    def _name(self, index: int) -> str:
        return f"shard-{index}-of-{self.count}"

    def _store(self, index: int) -> ObjectStore:
        return ObjectStore(partition_url(self.root.url, self._name(index)))

    def own_job(self, job: ResolvedJob) -> ResolvedJob:
        """``job`` with the shard's checkpoint."""
        checkpoint = job.config.checkpoint.model_copy(update={"url": self._store(self.index).url})
        return replace(job, config=job.config.model_copy(update={"checkpoint": checkpoint}))

    def listing(self, whole: Listing, identity: str) -> Listing:
        """Its part of the listing of the job of this ``identity``, written where there is none."""
        store = self._store(self.index)
        own = Listing.open(store)
        if own is None:
            mine = filter(self._mine, whole.read(0, len(whole)))
            own = write_listing(store, mine, origin=whole.origin, job=identity)
        own.check_origin(whole.origin, identity)
        return own

    def _mine(self, record: ImageRef | BadRecord) -> bool:
        name = record.stream if isinstance(record, ImageRef) else record.coordinate
        return group_of(name, self.count) == self.index

    def totals(self) -> Totals:
        """Of all shards, as they are committed."""
        total, streams, finished = Counters(), 0, True
        for listing, position, counters, held in self._stands():
            total, streams = total.plus(counters), streams + held
            finished = finished and listing is not None and position == len(listing)
        return Totals(total, streams, finished)

    def _stands(self) -> Iterator[tuple[Listing | None, int, Counters, int]]:
        for index in range(self.count):
            store = self._store(index)
            commit = CheckpointLog(store).latest()
            listing = Listing.open(store)
            yield (
                (listing, commit.position, commit.counters, len(commit.states))
                if commit
                else (listing, 0, Counters(), 0)
            )


def shards_noted(root: ObjectStore) -> int | None:
    """Into how many shards the job of a checkpoint is cut; ``None`` where that is not said yet."""
    return int(read_sealed(root, _NOTE)["shards"]) if root.exists(_NOTE) else None


def check_shards(root: ObjectStore, shard: Shard | None) -> None:
    """Note in the checkpoint how the job is cut; raises `ConfigurationError` where it is cut otherwise."""
    wanted = {"shards": shard.count if shard else 1}
    if shard is None and not root.exists(_NOTE):
        return
    if shard is not None and root.names("commits/"):
        found = 1
    else:
        root.create(_NOTE, seal_json(_NOTE, wanted))
        found = read_sealed(root, _NOTE)["shards"]
    if found != wanted["shards"]:
        said = "is of a job without shards" if found == 1 else f"is of a job of {found} shards"
        raise ConfigurationError(
            f"run.shard: the checkpoint {root.url} {said}, and streams would go to other processes: go on so, or give "
            "another --out and --checkpoint"
        )
