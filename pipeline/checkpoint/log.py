"""Plans and commits of one partition, as files that only one writer can create.

``plans/EPOCH-SEQUENCE.json`` is written before a slice produces any output, ``commits/EPOCH-SEQUENCE.json`` is the one
moment after which it counts. A restart that finds a plan without its commit runs exactly that plan again.

Where owners or settings change, the new one claims an epoch (``epochs/EPOCH.json``), an owner before it reads anything
here. Whoever runs slices looks for a higher one after it has written a plan and before it commits. So a plan that
produced any output was there when the next owner looked for open plans, and what the older owner still writes is never
the newest.
"""

import json
from collections.abc import Iterable
from typing import TypeVar
from urllib.parse import quote, unquote
from uuid import uuid4

from pydantic import ValidationError

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.packs import pack_sequence
from grpo_tta.pipeline.errors import JobError
from grpo_tta.schemas import Commit, Plan, WireModel

Record = TypeVar("Record", bound=WireModel)
_RESETS = "resets/"
"""A request is named after its stream and has a name of its own; it becomes part of every plan until a commit says that
it was done, so that a replay resets at the same event and nothing resets twice."""


class Conflict(JobError):
    """Another process has written this job's next plan or commit."""


def _name(folder: str, epoch: int, sequence: int) -> str:
    return f"{folder}/{epoch:06d}-{sequence:012d}.json"


def _epoch_name(epoch: int) -> str:
    return f"epochs/{epoch:06d}.json"


def _epoch(name: str) -> int:
    return int(name.rpartition("/")[2].partition("-")[0].removesuffix(".json"))


def _sequence(name: str) -> int:
    return int(name.rsplit("-", 1)[1].removesuffix(".json"))


class CheckpointLog:
    """The log of one partition in a store of its own."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def claim(self, owner: str) -> int:
        """A new epoch, higher than any before; ``owner`` is kept with it for people to read."""
        while True:
            epoch = self._highest_epoch() + 1
            if self._store.create(_epoch_name(epoch), json.dumps({"owner": owner}).encode()):
                return epoch

    def owner(self) -> tuple[int, str] | None:
        """The highest epoch that was claimed, and by whom."""
        names = self._store.names("epochs/")
        if not names:
            return None
        return _epoch(names[-1]), str(json.loads(self._store.read(names[-1]))["owner"])

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
        """Raises `Conflict` where the slice is planned already, or another process has claimed a higher epoch."""
        self._create(_name("plans", plan.epoch, plan.sequence), plan)
        self.check_epoch(plan.epoch)

    def commit_named(self, name: str) -> Commit:
        """A commit by what `write_commit` called it."""
        return self._read(name, Commit)

    def write_commit(self, commit: Commit) -> str:
        """The name it is written under. Raises `Conflict` where the slice is committed already, or another process has
        begun a higher epoch."""
        self.check_epoch(commit.epoch)
        name = _name("commits", commit.epoch, commit.sequence)
        self._create(name, commit)
        return name

    def request_reset(self, stream: str) -> None:
        """Ask that ``stream`` be reset before its next event; asking twice before it comes is asking once."""
        self._store.write(f"{_RESETS}={quote(stream, safe='')}/{uuid4().hex}.json", b"{}")

    def pending_resets(self) -> dict[str, list[str]]:
        """Stream -> the requests to reset it."""
        pending: dict[str, list[str]] = {}
        for name in sorted(self._store.names(_RESETS)):
            stream = unquote(name.removeprefix(_RESETS).partition("/")[0][1:])
            pending.setdefault(stream, []).append(name)
        return pending

    def forget_resets(self, requests: Iterable[str]) -> None:
        """They are done; those that are forgotten already do no harm."""
        for name in requests:
            self._store.delete(name)

    def check_epoch(self, epoch: int) -> None:
        """Raises `Conflict` where a higher one was claimed."""
        highest = self.claimed()
        if highest > epoch:
            raise Conflict(f"epoch {highest} has begun after {epoch}: another process has taken over")

    def superseded(self, epoch: int) -> bool:
        """Whether a higher one was claimed."""
        return self.claimed() > epoch

    def claimed(self) -> int:
        """The highest epoch that was claimed; 0 where none was."""
        names = self._store.names("epochs/")
        return _epoch(names[-1]) if names else 0

    def _highest_epoch(self) -> int:
        """Of anything here: a checkpoint may have lost its claims, never its commits."""
        folders = ("epochs/", "plans/", "commits/")
        return max((_epoch(name) for folder in folders for name in self._store.names(folder)[-1:]), default=0)

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
        for name in self._store.names("epochs/")[:-1]:
            if _epoch(name) < latest.epoch:
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
