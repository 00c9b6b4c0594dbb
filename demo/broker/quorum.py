"""What the brokers of one cluster agree on before they start: ids, controller ports, numbers of copies."""

import base64
import random
import socket
import uuid
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Self

PORTS = range(20000, 32000)
"""Below the ports that systems give to outgoing connections: a client that retries a dead broker must not take its."""


@dataclass(frozen=True)
class Quorum:
    """The controllers of a cluster: for each broker id a port and the id of its data folder."""

    cluster_id: str
    ports: dict[int, int]
    directories: dict[int, str]

    @classmethod
    def choose(cls, node_ids: Sequence[int]) -> Self:
        """New ids, and ports that are free now."""
        ports = dict(zip(node_ids, free_ports(len(node_ids)), strict=True))
        return cls(_kafka_id(), ports, {node_id: _kafka_id() for node_id in node_ids})

    def voters(self) -> str:
        """As the storage tool takes them."""
        return ",".join(f"{node}@127.0.0.1:{port}:{self.directories[node]}" for node, port in self.ports.items())

    def properties(self) -> dict[str, str]:
        """What each broker of the cluster must know."""
        replicas, majority = str(len(self.ports)), str(len(self.ports) // 2 + 1)
        return {
            "controller.quorum.bootstrap.servers": ",".join(f"127.0.0.1:{port}" for port in self.ports.values()),
            "default.replication.factor": replicas,
            "min.insync.replicas": majority,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": majority,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": majority,
        }


def free_ports(count: int, but: Collection[int] = ()) -> list[int]:
    """Different loopback ports where nobody listens now, none of ``but``."""
    candidates = (port for port in random.SystemRandom().sample(PORTS, len(PORTS)) if port not in but)
    free = (port for port in candidates if _is_free(port))
    return [next(free) for _ in range(count)]


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _kafka_id() -> str:
    """16 random bytes as Kafka writes them; one that begins with a dash would pass for an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text
