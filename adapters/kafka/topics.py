"""The topics that records go to: their names, how they are made when missing, and what size of record they take."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError

from grpo_tta.adapters.kafka.errors import KafkaForbidden, TopicMissing
from grpo_tta.adapters.kafka.settings import KafkaSettings

DEFAULT_MAX_MESSAGE_BYTES = 2**20 + 12
"""Kafka's own default of ``max.message.bytes``, assumed where the broker does not let us read it."""


@dataclass(frozen=True)
class OutTopics:
    """One topic a kind of record. Raises ValueError for two kinds in one topic."""

    labels: str
    adaptation: str
    drift: str
    dead_letters: str
    monitor: str

    def __post_init__(self) -> None:
        if len(set(self.names())) < len(self.names()):
            raise ValueError(f"each kind of record needs a topic of its own, got {', '.join(self.names())}")

    @classmethod
    def beside(
        cls,
        labels: str,
        *,
        adaptation: str | None = None,
        drift: str | None = None,
        dead_letters: str | None = None,
        monitor: str | None = None,
    ) -> "OutTopics":
        """The others default to ``<labels>.adaptation``, ``.drift``, ``.dead_letters``, ``.monitor``."""
        return cls(
            labels,
            adaptation or f"{labels}.adaptation",
            drift or f"{labels}.drift",
            dead_letters or f"{labels}.dead_letters",
            monitor or f"{labels}.monitor",
        )

    def names(self) -> tuple[str, ...]:
        """All of them, labels first."""
        return (self.labels, self.adaptation, self.drift, self.dead_letters, self.monitor)

    def of(self, kind: str) -> str:
        """The topic of a kind of record, as `adapters.rows` names them."""
        return str(getattr(self, kind))


@dataclass(frozen=True)
class TopicPlan:
    """How missing topics are made. ``replication`` -1: the broker's default.

    Retention is left to the broker: how long labels are kept is its owner's decision, and records are stamped with the
    time they are written, not the time of the image, so that old images are not deleted on arrival.
    """

    create: bool = True
    partitions: int = 1
    """Of the labels topic and the logs, so that a stream's records lie in the same partition of each."""
    replication: int = -1
    max_message_bytes: int | None = None
    """None: the broker's default."""

    def __post_init__(self) -> None:
        if self.partitions < 1:
            raise ValueError(f"partitions must be >= 1, got {self.partitions}")
        if self.replication < 1 and self.replication != -1:
            raise ValueError(f"replication must be >= 1 or -1 for the broker's default, got {self.replication}")
        if self.max_message_bytes is not None and self.max_message_bytes < 16384:
            raise ValueError(f"max_message_bytes must be >= 16384, got {self.max_message_bytes}")


def ensure_topics(settings: KafkaSettings, names: Iterable[str], plan: TopicPlan) -> dict[str, int]:
    """Each topic's ``max.message.bytes``; missing topics are made where ``plan`` allows it.

    Raises `TopicMissing` naming those that are missing and may not be made, or another `KafkaFailure`.
    """
    wanted = list(names)
    with settings.admin() as admin:
        unknown = {topic["name"] for topic in admin.describe_topics(wanted) if topic["error_code"]}
        missing = [name for name in wanted if name in unknown]  # the broker answers in an order of its own
        if missing and not plan.create:
            raise TopicMissing(f"topics {', '.join(missing)} do not exist: create them, or allow them to be created")
        for name in missing:
            _create(admin, name, plan)
        return {name: _max_message_bytes(admin, name) for name in wanted}


def _create(admin: Any, name: str, plan: TopicPlan) -> None:
    configs = {"cleanup.policy": "delete"}
    if plan.max_message_bytes is not None:
        configs["max.message.bytes"] = str(plan.max_message_bytes)
    topic = {"num_partitions": plan.partitions, "replication_factor": plan.replication, "configs": configs}
    try:
        admin.create_topics({name: topic}, wait_for_metadata=True)
    except TopicAlreadyExistsError:  # another process of the group was faster
        admin.wait_for_topics([name])


def _max_message_bytes(admin: Any, name: str) -> int:
    resource = ConfigResource(ConfigResourceType.TOPIC, name, {"max.message.bytes": None})
    try:
        found = admin.describe_configs([resource], config_filter="all")
        return int(found["topic"][name]["max.message.bytes"]["value"])
    except (KafkaForbidden, KafkaError, KeyError, TypeError):
        return DEFAULT_MAX_MESSAGE_BYTES
