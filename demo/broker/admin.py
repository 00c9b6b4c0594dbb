"""The few things that are asked of a running broker: is it there, make a topic, who leads a partition."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

PROBE_MS = 2000


@contextmanager
def admin_client(bootstrap: str, **options: Any) -> Iterator[Any]:
    """A ``KafkaAdminClient``, closed in the end. ``options`` are kafka-python's.

    Its constructor, when it cannot reach the broker, leaves its thread and its sockets behind: those are ended here.
    """
    opened: list[Any] = []

    def open_network(**settings: Any) -> Any:
        opened.append(KafkaNetClient(**settings))
        return opened[0]

    options = {"reconnect_backoff_max_ms": 500, "kafka_client": open_network, **options}
    try:
        client = KafkaAdminClient(bootstrap_servers=bootstrap, **options)
    except KafkaError:
        for network in opened:
            network.close()
            network._manager._net.stop()
        raise
    try:
        yield client
    finally:
        client.close()


def brokers_seen_from(bootstrap: str) -> set[int]:
    """Ids of the brokers that the one at ``bootstrap`` (one ``host:port``) knows to be up; none if it does not answer.

    TCP comes first: kafka-python spends its whole bootstrap time-out on an address where nobody listens.
    """
    host, port = bootstrap.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=PROBE_MS / 1000).close()
        with admin_client(bootstrap, bootstrap_timeout_ms=PROBE_MS, request_timeout_ms=PROBE_MS) as client:
            brokers = client.describe_cluster()["brokers"]
            return {broker["broker_id"] for broker in brokers if not broker.get("is_fenced")}
    except (OSError, KafkaError):
        return set()


def create_topic(
    bootstrap: str, name: str, partitions: int = 1, replicas: int = 1, config: Mapping[str, str] | None = None
) -> None:
    """Make a topic and wait until it has leaders.

    Unless ``config`` says otherwise nothing in it expires: a record's time may be any event time, and the broker
    deletes what is older than the topic's retention at its next check.
    """
    topic = NewTopic(name, partitions, replicas, topic_configs={"retention.ms": "-1", **(config or {})})
    with admin_client(bootstrap) as client:
        client.create_topics([topic], wait_for_metadata=True)


def partition_leader(bootstrap: str, topic: str, partition: int = 0) -> int:
    """The id of the broker that leads a partition; -1 while it has none."""
    with admin_client(bootstrap) as client:
        partitions = client.describe_topics([topic])[0]["partitions"]
    leaders: dict[int, int] = {entry["partition_index"]: entry["leader_id"] for entry in partitions}
    return leaders[partition]
