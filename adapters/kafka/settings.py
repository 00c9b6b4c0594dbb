"""How to reach a Kafka cluster: addresses, security, time-outs, and what a failed connection means.

Everything here is a frozen value that can be pickled, printed and put into a plan: a secret is named (``env:NAME`` or
``file:/path``), never held, and read when a client is made. kafka-python reports a wrong password, an unknown CA, a
missing client certificate and a plain listener behind TLS alike as a time-out; `KafkaUnreachable` lists what to check.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import kafka
from kafka import errors as kafka_errors

from grpo_tta.adapters.kafka.address import KafkaSecurity
from grpo_tta.adapters.kafka.errors import (
    CodecMissing,
    KafkaFailure,
    KafkaForbidden,
    KafkaTrouble,
    KafkaUnreachable,
    TopicMissing,
)

_UNREACHABLE = (
    kafka_errors.KafkaTimeoutError,
    kafka_errors.KafkaConnectionError,
    kafka_errors.NodeNotReadyError,
    kafka_errors.RequestTimedOutError,
    kafka_errors.BrokerNotAvailableError,
    kafka_errors.CoordinatorNotAvailableError,
    kafka_errors.Cancelled,
)
_BAD_CREDENTIALS = (kafka_errors.SaslAuthenticationFailedError, kafka_errors.UnsupportedSaslMechanismError)
_MISSING = (kafka_errors.UnknownTopicOrPartitionError, kafka_errors.InvalidTopicError)


@dataclass(frozen=True)
class KafkaSettings:
    """A cluster and how long to wait for it. Times in seconds."""

    servers: tuple[str, ...]
    security: KafkaSecurity = field(default_factory=KafkaSecurity)
    client_id: str = "grpo-tta"
    bootstrap_timeout: float = 15.0
    request_timeout: float = 15.0
    probe_timeout: float = 3.0
    """Of the TCP connection that is tried first: a dead address would cost the whole ``bootstrap_timeout``."""

    def client_options(self) -> dict[str, Any]:
        """Arguments that every kafka-python client takes. They hold secrets: keep them out of logs."""
        return {
            "bootstrap_servers": list(self.servers),
            "client_id": self.client_id,
            "bootstrap_timeout_ms": round(self.bootstrap_timeout * 1000),
            "request_timeout_ms": round(self.request_timeout * 1000),
            # The default of 30 s would leave a client asleep long after its broker is back.
            "reconnect_backoff_ms": 50,
            "reconnect_backoff_max_ms": 500,
            **self.security.client_options(),
        }

    def consumer(self, **options: Any) -> Any:
        """A `kafka.KafkaConsumer`; raises `KafkaUnreachable` or another `KafkaFailure`."""
        self.probe()
        with translated(self, "connect"):
            return kafka.KafkaConsumer(
                **self.client_options(),
                **{"enable_auto_commit": False, "allow_auto_create_topics": False, "metrics_enabled": False, **options},
            )

    def producer(self, **options: Any) -> Any:
        """A `kafka.KafkaProducer`; raises as `consumer` does."""
        self.probe()
        with translated(self, "connect"):
            return kafka.KafkaProducer(
                **self.client_options(), **{"allow_auto_create_topics": False, "metrics_enabled": False, **options}
            )

    @contextmanager
    def admin(self) -> Iterator[Any]:
        """A `kafka.KafkaAdminClient`, closed at the end; kafka-python's errors inside are translated."""
        self.probe()
        with translated(self, "administer topics"):
            client = kafka.KafkaAdminClient(**self.client_options())
            try:
                yield client
            finally:
                client.close()

    def probe(self) -> None:
        """Raise `KafkaUnreachable` unless one of the servers takes a TCP connection."""
        failures = []
        for server in self.servers:
            host, _, port = server.rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), self.probe_timeout).close()
                return
            except OSError as error:
                failures.append(f"{server}: {error.strerror or type(error).__name__}")
        raise KafkaUnreachable(
            f"no Kafka broker takes a connection ({'; '.join(failures)}): check the address and that the broker runs"
        )

    def advice(self) -> str:
        """What to check when the servers take connections and no client comes to work."""
        checks = [f"that {', '.join(self.servers)} is a {self.security.protocol} listener of a Kafka broker"]
        if self.security.tls:
            checks.append(f"that the CA ({self.security.ca_file or 'of the system'}) signed its certificate")
            checks.append("that the certificate names this host")
            checks.append(
                f"that the broker accepts the client certificate {self.security.cert_file}"
                if self.security.cert_file
                else "whether it wants a client certificate (none is configured)"
            )
        else:
            checks.append("whether it wants TLS (SSL or SASL_SSL)")
        if self.security.sasl:
            checks.append(
                f"the user and password ({self.security.username}, {self.security.password}) "
                f"and the mechanism {self.security.mechanism}"
            )
        else:
            checks.append("whether it wants a user and password (SASL)")
        checks.append("that the brokers' advertised listeners can be reached from here")
        return "check " + "; ".join(checks)


def as_failure(error: Exception, settings: KafkaSettings, doing: str) -> KafkaFailure:
    """Our error for one of kafka-python's; ``doing`` completes "could not ..."."""
    said = f"could not {doing}: {type(error).__name__}"
    if isinstance(error, KafkaFailure):
        return error
    if isinstance(error, (*_BAD_CREDENTIALS, *_UNREACHABLE)):
        return KafkaUnreachable(f"{said}; {settings.advice()}")
    if isinstance(error, kafka_errors.AuthorizationError):
        return KafkaForbidden(f"{said}: the broker's access rules forbid it; ask for the missing ACL ({error})")
    if isinstance(error, kafka_errors.UnsupportedCodecError):
        return CodecMissing(f"{said}: {error}: pip install 'kafka-python[lz4,snappy,zstd]'")
    if isinstance(error, _MISSING):
        return TopicMissing(f"{said}: the topic or partition does not exist on {', '.join(settings.servers)}")
    passes = bool(getattr(error, "retriable", False))
    return (KafkaTrouble if passes else KafkaFailure)(f"{said}: {str(error)[:500]}")


@contextmanager
def translated(settings: KafkaSettings, doing: str) -> Iterator[None]:
    """Turns kafka-python's errors and broken connections into `KafkaFailure`s."""
    try:
        yield
    except KafkaFailure:
        raise
    except (kafka_errors.KafkaError, OSError) as error:
        raise as_failure(error, settings, doing) from error
