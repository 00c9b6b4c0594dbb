"""How to reach a Kafka cluster: addresses, security, time-outs, and what a failed connection means.

Everything here is a frozen value that can be pickled, printed and put into a plan: a secret is named (``env:NAME`` or
``file:/path``), never held, and read when a client is made. kafka-python reports a wrong password, an unknown CA, a
missing client certificate and a plain listener behind TLS alike as a time-out; `KafkaUnreachable` lists what to check.
"""

import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import kafka
from kafka import errors as kafka_errors

from grpo_tta.adapters.kafka.errors import KafkaFailure, KafkaForbidden, KafkaUnreachable, TopicMissing

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
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
class KafkaAddress:
    """``kafka://HOST:PORT[,HOST:PORT]/TOPIC[,TOPIC]``, parsed."""

    servers: tuple[str, ...]
    topics: tuple[str, ...]

    @classmethod
    def parse(cls, url: str) -> "KafkaAddress":
        """Raises ValueError naming what is wrong; of a URL with credentials nothing is repeated."""
        if "@" in url:
            raise ValueError(
                "a Kafka address holds no user or password: name the variables that do in the security settings"
            )
        scheme, separator, rest = url.partition("://")
        if scheme != "kafka" or not separator:
            raise ValueError(f"a Kafka address begins with kafka://, got {url!r}")
        servers, _, topics = rest.partition("/")
        address = cls(tuple(servers.split(",")), tuple(topics.split(",")))
        address._check(url)
        return address

    def _check(self, url: str) -> None:
        for server in self.servers:
            host, _, port = server.rpartition(":")
            if not _HOST.fullmatch(host) or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(f"Kafka address {url!r}: expected HOST:PORT, got {server!r}")
        for topic in self.topics:
            if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
                raise ValueError(
                    f"Kafka address {url!r}: a topic is 1 to 249 letters, digits, '.', '_' or '-', got {topic!r}"
                )
        if len(set(self.topics)) < len(self.topics):
            raise ValueError(f"Kafka address {url!r} names a topic twice")


def read_secret(name: str, what: str, environ: Mapping[str, str] | None = None) -> str:
    """The secret that ``env:NAME`` or ``file:/path`` stands for. Raises ValueError, which never repeats a value."""
    kind, _, where = name.partition(":")
    if kind == "env":
        value = (os.environ if environ is None else environ).get(where)
        if not value:
            raise ValueError(f"{what}: environment variable {where} is not set")
        return value
    try:
        value = Path(where).read_text().rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"{what}: file {where} cannot be read: {error.strerror}") from error
    if not value:
        raise ValueError(f"{what}: file {where} is empty")
    return value


def _check_secret_name(name: str | None, what: str) -> None:
    kind, _, where = (name or "env:_").partition(":")
    if not ((kind == "env" and _VARIABLE.fullmatch(where)) or (kind == "file" and where)):
        raise ValueError(f"{what} must be named as env:VARIABLE or file:/path, not given (the value is not shown)")


@dataclass(frozen=True)
class KafkaSecurity:
    """TLS and SASL. ``key_password``, ``username`` and ``password`` are names of secrets: ``env:NAME``, ``file:/path``.

    Raises ValueError for a combination that cannot work.
    """

    protocol: Protocol = "PLAINTEXT"
    ca_file: str | None = None
    """PEM; None: the system's own authorities."""
    cert_file: str | None = None
    """PEM of the client's certificate, for mTLS."""
    key_file: str | None = None
    key_password: str | None = None
    mechanism: Mechanism | None = None
    username: str | None = None
    password: str | None = None

    def __post_init__(self) -> None:
        if self.protocol not in get_args(Protocol):
            raise ValueError(f"protocol must be one of {', '.join(get_args(Protocol))}, got {self.protocol!r}")
        for what in ("key_password", "username", "password"):
            _check_secret_name(getattr(self, what), what)
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            raise ValueError(f"protocol {self.protocol} has no TLS: choose SSL or SASL_SSL, or leave the files out")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file belong together: give both or neither")
        if self.sasl:
            if self.mechanism not in get_args(Mechanism):
                raise ValueError(f"mechanism must be one of {', '.join(get_args(Mechanism))}, got {self.mechanism!r}")
            if not self.username or not self.password:
                raise ValueError(f"protocol {self.protocol} needs a username and a password")
        elif self.mechanism or self.username or self.password:
            raise ValueError(f"protocol {self.protocol} has no SASL: choose SASL_PLAINTEXT or SASL_SSL")

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def sasl(self) -> bool:
        """Whether a user name and password are sent."""
        return self.protocol in ("SASL_PLAINTEXT", "SASL_SSL")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], prefix: str = "GRPO_TTA_KAFKA_") -> "KafkaSecurity":
        """``PREFIX`` + PROTOCOL, CA_FILE, CERT_FILE, KEY_FILE, MECHANISM; of KEY_PASSWORD, USERNAME and PASSWORD the
        names are kept."""
        plain = ("protocol", "ca_file", "cert_file", "key_file", "mechanism")
        given: dict[str, Any] = {
            name: environ[prefix + name.upper()] for name in plain if prefix + name.upper() in environ
        }
        for name in ("key_password", "username", "password"):
            if prefix + name.upper() in environ:
                given[name] = f"env:{prefix}{name.upper()}"
        return cls(**given)

    def client_options(self) -> dict[str, Any]:
        """kafka-python's arguments, with the secrets read now. Keep it out of logs. Raises ValueError."""
        options: dict[str, Any] = {"security_protocol": self.protocol}
        if self.tls:
            for name in ("ca_file", "cert_file", "key_file"):
                path = getattr(self, name)
                if path and not os.access(path, os.R_OK):
                    raise ValueError(f"{name} {path} cannot be read")
            options |= {
                "ssl_check_hostname": True,
                "ssl_cafile": self.ca_file,
                "ssl_certfile": self.cert_file,
                "ssl_keyfile": self.key_file,
            }
            if self.key_password:
                options["ssl_password"] = read_secret(self.key_password, "key_password")
        if self.sasl and self.username and self.password:
            _hush_requests()
            options |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": read_secret(self.username, "username"),
                "sasl_plain_password": read_secret(self.password, "password"),
            }
        return options


def _hush_requests() -> None:
    """kafka-python logs every request at DEBUG, the one with a password as well: INFO is as far as it may go."""
    for name in ("kafka", *(name for name in logging.root.manager.loggerDict if name.startswith("kafka."))):
        logger = logging.getLogger(name)
        if name == "kafka" or logger.level != logging.NOTSET:
            logger.setLevel(max(logger.level, logging.INFO))


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
    if isinstance(error, _MISSING):
        return TopicMissing(f"{said}: the topic or partition does not exist on {', '.join(settings.servers)}")
    failure = KafkaFailure(f"{said}: {str(error)[:500]}")
    failure.retriable = bool(getattr(error, "retriable", False))
    return failure


@contextmanager
def translated(settings: KafkaSettings, doing: str) -> Iterator[None]:
    """Turns kafka-python's errors and broken connections into `KafkaFailure`s."""
    try:
        yield
    except KafkaFailure:
        raise
    except (kafka_errors.KafkaError, OSError) as error:
        raise as_failure(error, settings, doing) from error
