"""Plans, commits and a stand-in for the graph that accounts for every position."""

from collections.abc import Callable
from datetime import UTC, datetime

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.packs import pack_name, write_pack
from grpo_tta.pipeline.checkpoint.partition import Fingerprints, SliceResult
from grpo_tta.schemas import Commit, Counters, Plan, SliceRange

CLOCK = datetime(2026, 1, 1, tzinfo=UTC)
OURS = Fingerprints("config", "model", "source", 1)


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


def killing(at: str, when: int = 0) -> Callable[[str], None]:
    """Dies at the ``when``-th time that ``at`` is reached."""
    seen = iter(range(1000))

    def point(name: str) -> None:
        if name == at and next(seen) == when:
            raise Killed

    return point


def make_plan(sequence: int = 0, epoch: int = 1, **fields: object) -> Plan:
    values = {
        "epoch": epoch,
        "sequence": sequence,
        "span": SliceRange(partition="storage", start=10 * sequence, stop=10 * sequence + 10),
        "clock": CLOCK,
        "config_fingerprint": "config",
        "model_fingerprint": "model",
        "threads": 1,
        "source_fingerprint": "source",
    }
    return Plan.model_validate({**values, **fields})


def make_commit(sequence: int = 0, epoch: int = 1, **fields: object) -> Commit:
    values = {
        "epoch": epoch,
        "sequence": sequence,
        "partition": "storage",
        "position": 10 * sequence + 10,
        "states": {},
        "counters": Counters(events=10 * sequence + 10),
        "config_fingerprint": "config",
        "model_fingerprint": "model",
        "source_fingerprint": "source",
    }
    return Commit.model_validate({**values, **fields})


class FakeGraph:
    """Steps 2 and 3: every position becomes a label; one changed stream a slice."""

    def __init__(self, store: ObjectStore, lost: int = 0) -> None:
        self.store = store
        self.lost = lost
        self.plans: list[Plan] = []

    def __call__(self, plan: Plan, latest: Commit | None) -> SliceResult:
        self.plans.append(plan)
        events = plan.span.stop - plan.span.start
        stream = f"cam-{plan.sequence % 3}"
        write_pack(self.store, pack_name(plan), {stream: f"state {plan.sequence}".encode()}, {})
        counters = Counters(events=events, labels=events - self.lost)
        return SliceResult(pack_name(plan), (stream,), (stream,), counters)
