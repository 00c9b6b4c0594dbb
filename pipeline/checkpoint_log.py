"""Plans and commits of a job, as files that only one writer can create.

``plans/EPOCH-SEQUENCE.json`` is written before a slice produces any output, ``commits/EPOCH-SEQUENCE.json`` is the one
moment after which it counts. A restart that finds a plan without its commit runs exactly that plan again.
"""

from typing import TypeVar

from pydantic import ValidationError

from adapters.storage.objects import ObjectStore
from pipeline.errors import JobError
from pipeline.state_packs import pack_sequence
from schemas import Commit, Plan, WireModel

Record = TypeVar("Record", bound=WireModel)


class Conflict(JobError):
    """Another process has written this job's next plan or commit."""


def _name(folder: str, epoch: int, sequence: int) -> str:
    return f"{folder}/{epoch:06d}-{sequence:012d}.json"


def _sequence(name: str) -> int:
    return int(name.rsplit("-", 1)[1].removesuffix(".json"))


class CheckpointLog:
    """The log of one job in one store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def latest(self) -> Commit | None:
        """The newest commit."""
        names = self._store.names("commits/")
        return self._read(max(names), Commit) if names else None

    def open_plan(self, latest: Commit | None) -> Plan | None:
        """The plan that follows ``latest`` and has no commit; of several the one of the highest epoch."""
        oldest = _name("plans", latest.epoch, 0) if latest else ""
        sequence = latest.sequence + 1 if latest else 0
        names = [name for name in self._store.names("plans/") if _sequence(name) == sequence and name >= oldest]
        return self._read(max(names), Plan) if names else None

    def write_plan(self, plan: Plan) -> None:
        """Raises `Conflict` where the slice is planned already."""
        self._create(_name("plans", plan.epoch, plan.sequence), plan)

    def write_commit(self, commit: Commit) -> None:
        """Raises `Conflict` where the slice is committed already, or another process has begun a higher epoch."""
        newest = max(self._store.names("plans/"), default="")
        if newest >= _name("plans", commit.epoch + 1, 0):
            raise Conflict(f"{newest} is of a higher epoch: another process has taken this job over")
        self._create(_name("commits", commit.epoch, commit.sequence), commit)

    def collect_garbage(self, latest: Commit, keep: int) -> None:
        """Delete plans, commits and packs older than the last ``keep`` that ``latest`` does not need."""
        oldest = latest.sequence - keep + 1
        live = set(latest.states.values())
        for folder in ("plans/", "commits/"):
            for name in self._store.names(folder):
                if _sequence(name) < oldest:
                    self._store.delete(name)
        for name in self._store.names("states/"):
            if name not in live and pack_sequence(name) < oldest:
                self._store.delete(name)

    def _create(self, name: str, record: WireModel) -> None:
        data = record.model_dump_json(exclude_none=True).encode()
        if not self._store.create(name, data) and self._store.read(name) != data:
            raise Conflict(f"{name} exists: another process runs this job; stop it, or give each its own --checkpoint")

    def _read(self, name: str, model: type[Record]) -> Record:
        try:
            return model.model_validate_json(self._store.read(name))
        except ValidationError as error:
            raise JobError(f"checkpoint file {name} is damaged or of another version: {error}") from error
