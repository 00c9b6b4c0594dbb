"""Plans and commits of one partition, as files that only one writer can create.

``plans/EPOCH-SEQUENCE.json`` is written before a slice produces any output, ``commits/EPOCH-SEQUENCE.json`` is the one
moment after which it counts. A restart that finds a plan without its commit runs exactly that plan again.

Where owners or settings change, the new one claims an epoch (``epochs/EPOCH.json``), an owner before it reads anything
here. Whoever runs slices looks for a higher one after it has written a plan and before it commits. So a plan that
produced any output was there when the next owner looked for open plans, and what the older owner still writes is never
the newest.

All of them are sealed (`adapters.storage.sealed`), a plan on top of the commit that it goes on from, a commit on top of
its plan: a chain in which a file of another job, or of another partition, has no place. Of many streams a commit writes
down those alone that have changed since the last one that named all.
"""

import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, unquote
from uuid import uuid4

from pydantic import ValidationError

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sealed import (
    NOTHING,
    Sealed,
    SealError,
    digest_of,
    read_sealed,
    seal,
    seal_json,
    unseal,
)
from grpo_tta.pipeline.checkpoint.packs import pack_sequence
from grpo_tta.pipeline.errors import JobError
from grpo_tta.schemas import Commit, Plan, WireModel

Record = TypeVar("Record", bound=WireModel)
_COMPACT: dict[str, Any] = {"separators": (",", ":")}
_RESETS = "resets/"
"""A request is named after its stream and has a name of its own; it becomes part of every plan until a commit says that
it was done, so that a replay resets at the same event and nothing resets twice."""

_OWN = re.compile(r"(?:epochs/\d{6,}|(?:plans|commits)/\d{6,}-\d{12,})\.json|states/\d{6,}-\d{12,}\.pack")
_AT_ONCE = 16
"""Files that are read side by side."""
_ALL_AGAIN = 4
"""A commit names all streams again where one in so many has changed since the last that did."""


class Conflict(JobError):
    """Another process has written this job's next plan or commit."""


class DamagedCheckpoint(JobError):
    """A file of the checkpoint is not what was written; trying again does not help."""


class MissingFile(DamagedCheckpoint):
    """A file of which another speaks is not there: it is lost, or another owner has collected it meanwhile."""

    retriable = True


@dataclass(frozen=True)
class _Known:
    """A file of the log as this process wrote or read it."""

    name: str = ""
    digest: str = NOTHING


def _name(folder: str, epoch: int, sequence: int) -> str:
    return f"{folder}/{epoch:06d}-{sequence:012d}.json"


def _epoch_name(epoch: int) -> str:
    return f"epochs/{epoch:06d}.json"


def epoch_of(name: str) -> int:
    """Of a plan, commit or claim, by its name."""
    return int(name.rpartition("/")[2].partition("-")[0].removesuffix(".json"))


def sequence_of(name: str) -> int:
    """Of a plan or commit, by its name."""
    return int(name.rsplit("-", 1)[1].removesuffix(".json"))


def is_own(name: str) -> bool:
    """Whether it is a name of a plan, commit, claim or pack."""
    return _OWN.fullmatch(name) is not None


def own_names(store: ObjectStore, folder: str) -> list[str]:
    """Files of the log in a folder, or of its states, sorted by name. What others have put beside them, such as a copy
    or an editor's backup, is passed over."""
    return [name for name in store.names(folder) if is_own(name)]


class CheckpointLog:
    """The log of one partition in a store of its own."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._plan = self._commit = self._base = _Known()
        self._named: Commit | None = None
        """The commit ``_base``, which names every stream."""

    def claim(self, owner: str) -> int:
        """A new epoch, higher than any before; ``owner`` is kept with it for people to read."""
        while True:
            epoch = self._highest_epoch() + 1
            if self._store.create(name := _epoch_name(epoch), seal_json(name, {"owner": owner})):
                return epoch

    def owner(self) -> tuple[int, str] | None:
        """The highest epoch that was claimed, and by whom."""
        names = own_names(self._store, "epochs/")
        if not names:
            return None
        try:
            return epoch_of(names[-1]), str(read_sealed(self._store, names[-1])["owner"])
        except SealError as error:
            raise DamagedCheckpoint(str(error)) from error

    def latest(self) -> Commit | None:
        """The newest commit."""
        names = own_names(self._store, "commits/")
        return self.commit_named(max(names)) if names else None

    def open_plan(self, latest: Commit | None) -> Plan | None:
        """The plan that follows ``latest`` and has no commit; of several the one of the highest epoch."""
        oldest = _name("plans", latest.epoch, 0) if latest else ""
        sequence = latest.sequence + 1 if latest else 0
        names = [name for name in own_names(self._store, "plans/") if sequence_of(name) >= sequence and name >= oldest]
        later = [name for name in names if sequence_of(name) > sequence]
        if later and all(sequence_of(name) != sequence for name in own_names(self._store, "commits/")):
            lost = _name("commits", epoch_of(names[0]), sequence)
            raise DamagedCheckpoint(f"checkpoint file {lost}, which {later[0]} goes on from, {self._gone()}")
        names = [name for name in names if sequence_of(name) == sequence]
        if not names:
            return None
        name = max(names)
        plan, sealed = self._read(name, Plan)
        if NOTHING not in (sealed.after, self._before(sequence)) and sealed.after != self._commit.digest:
            raise self._foreign(name, self._commit.name)
        self._plan = _Known(name, sealed.digest)
        return plan

    def write_plan(self, plan: Plan) -> None:
        """Raises `Conflict` where the slice is planned already, or another process has claimed a higher epoch."""
        self._create(_name("plans", plan.epoch, plan.sequence), plan)
        self.check_epoch(plan.epoch)

    def commit_named(self, name: str) -> Commit:
        """A commit by what `write_commit` called it, with all its streams."""
        commit, sealed = self._read(name, Commit)
        if sealed.after != NOTHING:
            plan = _name("plans", commit.epoch, commit.sequence)
            _, planned = self._read(plan, Plan)
            if planned.digest != sealed.after:
                raise self._foreign(name, plan)
            self._plan = _Known(plan, planned.digest)
        if commit.since is not None:
            changes, (base, _, digest) = commit, commit.since.partition(" ")
            self._named, whole = self._read(base, Commit)
            if whole.digest != digest:
                raise self._foreign(base, name)
            self._base, commit = _Known(base, digest), _whole(self._named, changes)
        else:
            self._base, self._named = _Known(name, sealed.digest), commit
        self._commit = _Known(name, sealed.digest)
        return commit

    def held(self, latest: Commit) -> list[Commit]:
        """The commits up to ``latest`` that are still here, as they were written down: ``checkpoint.keep`` at least."""
        newest: dict[int, str] = {}
        for name in own_names(self._store, "commits/"):  # of a sequence the highest epoch comes last
            if epoch_of(name) <= latest.epoch and sequence_of(name) <= latest.sequence:
                newest[sequence_of(name)] = name
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda name: self._read(name, Commit)[0], newest.values()))

    def _before(self, sequence: int) -> str:
        """The digest of the commit that a plan of this sequence goes on from, where this process knows it."""
        name = self._commit.name
        return self._commit.digest if name and sequence_of(name) == sequence - 1 else NOTHING

    def _foreign(self, name: str, other: str) -> DamagedCheckpoint:
        return DamagedCheckpoint(
            f"checkpoint file {name} and {other} do not belong together ({self._store.url}): one is damaged or of "
            "another job; put it back from a copy, or start a new job with another --out and --checkpoint"
        )

    def _gone(self) -> str:
        return (
            f"is gone ({self._store.url}): put it back from a copy, or start a new job with another --out and "
            "--checkpoint"
        )

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
        names = own_names(self._store, "epochs/")
        return epoch_of(names[-1]) if names else 0

    def _highest_epoch(self) -> int:
        """Of anything here: a checkpoint may have lost its claims, never its commits."""
        folders = ("epochs/", "plans/", "commits/")
        return max((epoch_of(name) for folder in folders for name in own_names(self._store, folder)[-1:]), default=0)

    def collect_garbage(self, latest: Commit, keep: int) -> None:
        """Delete plans, commits and packs older than the last ``keep`` that ``latest``, the newest here, does not need;
        none where another process has taken over."""
        epochs = own_names(self._store, "epochs/")
        if epochs and epoch_of(epochs[-1]) > latest.epoch:
            return
        oldest = latest.sequence - keep + 1
        live = {*latest.states.values(), self._base.name}
        for folder in ("plans/", "commits/"):
            for name in own_names(self._store, folder):
                if name not in live and sequence_of(name) < oldest:
                    self._store.delete(name)
        for name in own_names(self._store, "states/"):
            if name not in live and pack_sequence(name) < oldest:
                self._store.delete(name)
        for name in epochs[:-1]:
            if epoch_of(name) < latest.epoch:
                self._store.delete(name)

    def _create(self, name: str, record: Plan | Commit) -> None:
        written, after = record, self._before(record.sequence)
        if isinstance(record, Commit):
            after = self._plan.digest if self._plan.name == name.replace("commits/", "plans/") else NOTHING
            written = self._changes(record)
        data = seal(name, json.dumps(written.model_dump(mode="json", exclude_none=True), **_COMPACT).encode(), after)
        if not self._store.create(name, data) and self._store.read(name) != data:
            raise Conflict(f"{name} exists: another process runs this job; stop it, or give each its own --checkpoint")
        known = _Known(name, digest_of(data))
        if isinstance(record, Plan):
            self._plan = known
            return
        self._commit = known
        if written is record:
            self._base, self._named = known, record

    def _changes(self, commit: Commit) -> Commit:
        """What a commit writes down: what is new since the last that named all streams, or, where that is much, all."""
        before = self._named
        if before is None:
            return commit
        states = {
            stream: pack
            for stream, pack in commit.states.items()
            if before.states.get(stream) != pack or before.newest.get(stream) != commit.newest.get(stream)
        }
        if _ALL_AGAIN * len(states) >= len(commit.states):
            return commit
        fields = {
            "since": f"{self._base.name} {self._base.digest}",
            "states": states,
            "newest": {stream: commit.newest[stream] for stream in states if stream in commit.newest},
            "gone": sorted(before.states.keys() - commit.states.keys()),
            "packs": {name: pack for name, pack in commit.packs.items() if before.packs.get(name) != pack},
        }
        return commit.model_copy(update=fields)

    def _read(self, name: str, model: type[Record]) -> tuple[Record, Sealed]:
        try:
            sealed = unseal(name, self._store.read(name), self._store.url)
            return model.model_validate_json(sealed.body), sealed
        except SealError as error:
            raise DamagedCheckpoint(str(error)) from error
        except FileNotFoundError as error:
            raise MissingFile(f"checkpoint file {name} {self._gone()}") from error
        except ValidationError as error:
            raise DamagedCheckpoint(f"checkpoint file {name} is damaged or of another version: {error}") from error


def _whole(base: Commit, changes: Commit) -> Commit:
    """The commit whose ``changes`` since ``base`` were written down."""
    gone = set(changes.gone)
    states = {stream: pack for stream, pack in {**base.states, **changes.states}.items() if stream not in gone}
    newest = {stream: time for stream, time in {**base.newest, **changes.newest}.items() if stream in states}
    live = set(states.values())
    packs = {name: pack for name, pack in {**base.packs, **changes.packs}.items() if name in live}
    return changes.model_copy(update={"since": None, "states": states, "newest": newest, "gone": [], "packs": packs})
