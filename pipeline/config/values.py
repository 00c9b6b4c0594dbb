"""Values of the configuration that are texts: durations, windows, URLs, places in a topic, options of the runner."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter

from grpo_tta.adapters.kafka.address import KafkaAddress
from grpo_tta.adapters.storage.filesystems import HIDDEN, redacted_text, scheme_of, shows_user
from grpo_tta.checks import is_whole
from grpo_tta.pipeline.windows import SECOND
from grpo_tta.schemas.rfc3339 import parse_rfc3339

T = TypeVar("T")
_UNITS = {"ms": 1_000, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "d": 86_400 * SECOND}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_LONGEST = 36_500
"""Days: a century, which every clock and wait can count."""


def home(text: str) -> str:
    """A path that begins with ``~`` from the home folder, as a shell has it; ``file:~`` and ``local-dir:~`` too."""
    scheme, colon, path = text.partition(":")
    if colon and path.startswith("~") and scheme in ("file", "local-dir"):
        return f"{scheme}:{os.path.expanduser(path)}"
    return os.path.expanduser(text)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(
            f"expected a text, in quotes where it looks like something else, got {redacted_text(repr(value))}"
        )
    return value


def exactly(kind: type[T]) -> Callable[[Any], T]:
    """Makes a settings' class of keys and values; a value must be of its field's type as JSON has it (``true`` is no
    number). Paths among them may begin with ``~``."""
    adapter = TypeAdapter(kind)

    def make(value: Any) -> T:
        if isinstance(value, kind):
            return value
        try:
            plain = json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected keys and values, got {value!r}") from error
        made = adapter.validate_json(plain, strict=True)
        texts = {name: text for name, text in vars(made).items() if isinstance(text, str)}
        moved = {name: home(text) for name, text in texts.items() if home(text) != text}
        return replace(made, **moved) if moved else made  # type: ignore[type-var]

    return make


def parse_duration(text: str) -> int:
    """``30s``, ``5m``, ``250ms``, ``1h``, ``2d`` in microseconds, a century at most; raises ``ValueError``."""
    match = _DURATION.fullmatch(str(text))
    if match is None:
        raise ValueError(f"a duration is a number with ms, s, m, h or d, like 30s, got {text!r}")
    found = float(match[1]) * _UNITS[match[2]]
    if found > _LONGEST * _UNITS["d"]:
        raise ValueError(f"a duration is at most {_LONGEST}d, got {text[:40]!r}")
    return round(found)


def _duration(value: Any) -> str:
    parse_duration(_text(value))
    return str(value)


def check_positive(value: str) -> str:
    """A duration longer than nothing, else a ``ValueError``."""
    if parse_duration(value) <= 0:
        raise ValueError(f"it must be longer than 0, got {value!r}")
    return value


def check_stretch(value: Any) -> str:
    """A duration of whole seconds, at least one, else a ``ValueError``."""
    if parse_duration(value) < SECOND or parse_duration(value) % SECOND:
        raise ValueError(f"a stretch of time is of whole seconds, like 1h, got {value!r}")
    return str(value)


def check_window(value: Any) -> str:
    """``fixed:LENGTH`` or ``session:GAP``, else a ``ValueError``."""
    kind, _, size = _text(value).partition(":")
    if kind not in ("fixed", "session") or not size:
        raise ValueError(f"a window is fixed:LENGTH or session:GAP, like fixed:60s, got {value!r}")
    if parse_duration(size) <= 0:
        raise ValueError(f"a window's length must be > 0, got {value!r}")
    return str(value)


def _url(value: Any) -> str:
    """A URL without credentials in it: it ends up in labels, summaries and logs."""
    text = home(_text(value))
    if scheme_of(text) != "file" and shows_user(text):
        raise ValueError(
            "credentials do not belong in a URL, it is written to outputs and logs: give them as the storage's own "
            "environment variables or files"
        )
    return text


def default_checkpoint(out: str) -> str:
    """Where a job's checkpoint lies unless it is told."""
    return out.rstrip("/") + "/checkpoint"


def option_name(option: str) -> str:
    """``--name=(hidden)`` of an option with a value, ``(hidden)`` of a value by itself."""
    name, sign, _ = option.partition("=")
    if not name.startswith("-"):
        return HIDDEN
    return f"{name}={HIDDEN}" if sign else name


def is_kafka(url: str) -> bool:
    """Whether a source or output is a Kafka cluster."""
    return url.lower().startswith("kafka:")


def _kafka_url(url: str) -> str:
    if is_kafka(url):
        KafkaAddress.parse(url)
    return url


def parsed(parse: Callable[[str], Any]) -> BeforeValidator:
    """A text that ``parse`` takes without a ValueError."""

    def check(value: Any) -> str:
        parse(_text(value))
        return str(value)

    return BeforeValidator(check)


def parse_shard(text: str) -> tuple[int, int]:
    """``0/4`` -> 0, 4; else a ``ValueError``."""
    index, _, count = text.partition("/")
    if not (is_whole(index) and is_whole(count) and int(index) < int(count) <= 10_000):
        raise ValueError(f"a shard is I/N, from 0/N to N-1/N, with N up to 10000, like 0/4, got {text!r}")
    return int(index), int(count)


_NOT_SUPPORTED = {
    "DirectRunner": "it means different runners on different machines; name FnApiRunner or PrismRunner",
    "SparkRunner": "it was never tried; on several machines name DaskRunner or start one job a --shard",
}


def parse_runner(name: str) -> None:
    """A ValueError for a Beam runner that is known not to do."""
    if name in _NOT_SUPPORTED:
        raise ValueError(f"{name} is not supported: {_NOT_SUPPORTED[name]}")


def parse_until(text: str) -> None:
    """``latest`` or a time, else a ``ValueError``."""
    if text != "latest":
        parse_rfc3339(text)


Url = Annotated[str, Field(min_length=1), AfterValidator(_kafka_url), BeforeValidator(_url)]
FilePath = Annotated[str, AfterValidator(home)]
Duration = Annotated[str, BeforeValidator(_duration)]
