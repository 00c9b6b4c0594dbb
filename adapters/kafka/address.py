"""How a cluster is named and how it is entered: addresses and security, without a client."""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from grpo_tta.checks import AS_SECTION, is_whole

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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
            if not _HOST.fullmatch(host) or not is_whole(port) or not 0 < int(port) < 65536:
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

    __pydantic_config__: ClassVar[dict[str, Any]] = AS_SECTION

    protocol: Protocol = "PLAINTEXT"
    """Without the section: ``GRPO_TTA_KAFKA_PROTOCOL`` and so on, from the environment."""
    ca_file: str | None = None
    """PEM; none: the system's authorities."""
    cert_file: str | None = None
    """PEM of the client's certificate, for mTLS."""
    key_file: str | None = None
    """PEM of its key."""
    key_password: str | None = None
    """A *name*: ``env:VARIABLE`` or ``file:/path``."""
    mechanism: Mechanism | None = None
    """Of SASL."""
    username: str | None = None
    """A name, as above."""
    password: str | None = None
    """A name, as above."""

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
