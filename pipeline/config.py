"""`JobConfig`: the one configuration of a labelling job, from a YAML file, flags, or both (flags win).

The method's and the guard's own settings are their dataclasses, declared once in ``grpo_tta``. Unknown keys are
refused, and every problem becomes one line that names the key and the value.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from adapters.storage.filesystems import local_path
from grpo_tta.guard import GuardSettings
from grpo_tta.methods import METHODS
from grpo_tta.models import ModelSettings
from pipeline.errors import ConfigurationError
from pipeline.windows import SECOND, Windows

_UNITS = {"ms": 1_000, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "d": 86_400 * SECOND}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_duration(text: str) -> int:
    """``30s``, ``5m``, ``250ms``, ``1h``, ``2d`` in microseconds; raises ``ValueError``."""
    match = _DURATION.fullmatch(str(text))
    if match is None:
        raise ValueError(f"a duration is a number with ms, s, m, h or d, like 30s, got {text!r}")
    return round(float(match[1]) * _UNITS[match[2]])


def _duration(value: Any) -> str:
    parse_duration(value)
    return str(value)


def _window(value: Any) -> str:
    kind, _, size = str(value).partition(":")
    if kind not in ("fixed", "session") or not size:
        raise ValueError(f"a window is fixed:LENGTH or session:GAP, like fixed:60s, got {value!r}")
    if parse_duration(size) <= 0:
        raise ValueError(f"a window's length must be > 0, got {value!r}")
    return str(value)


_NOT_OF_LABELS = (
    ("source", "url"),
    ("source", "stream_pattern"),
    ("source", "time_pattern"),
    ("model", "name"),
    ("model", "pretrained"),
    ("output", "url"),
    ("checkpoint", "url"),
    ("checkpoint", "keep"),
    ("checkpoint", "slice_records"),
    ("checkpoint", "on_state_mismatch"),
)
_FILES = (("labels", "file"), ("labels", "class_vectors"), ("guard", "reference"))


def _content(key: str, path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigurationError(f"{key}: {path}: {error.strerror or error}") from error


def _url(value: Any) -> str:
    """A URL without credentials in it: it ends up in labels, summaries and logs."""
    text = str(value)
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise ValueError(
            "credentials do not belong in a URL, it is written to outputs and logs: give them as the storage's own "
            "environment variables or files"
        )
    return text


Url = Annotated[str, Field(min_length=1), BeforeValidator(_url)]
Duration = Annotated[str, BeforeValidator(_duration)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class SourceConfig(_Section):
    """Where images come from."""

    url: Url
    """Folder, glob, bucket URL or JSONL manifest."""
    stream_pattern: str | None = None
    time_pattern: str | None = None
    allow_uris: tuple[str, ...] = ()
    """Prefixes a manifest may point at, beside its own folder."""
    max_image_bytes: Annotated[int, Field(ge=1)] = 32 * 1024 * 1024
    max_image_pixels: Annotated[int, Field(ge=1)] = 64_000_000

    @model_validator(mode="after")
    def _patterns(self) -> "SourceConfig":
        for name, group in (("stream_pattern", "stream"), ("time_pattern", "time")):
            pattern = getattr(self, name)
            if pattern is None:
                continue
            try:
                compiled = re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name} is no regular expression: {error}, got {pattern!r}") from error
            if group not in compiled.groupindex:
                raise ValueError(f"{name} must have a group (?P<{group}>...), got {pattern!r}")
        return self


class LabelsConfig(_Section):
    """What to tell apart. Without any of it the demo model's own classes."""

    file: str | None = None
    """One class a line, or YAML/JSON mapping class -> prompts."""
    templates: tuple[str, ...] = ()
    class_vectors: str | None = None


def _method_name(value: str) -> str:
    if value not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {value!r}")
    return value


def _method_settings(value: Any, info: ValidationInfo) -> Any:
    """Settings of the method named beside them, as that method's own class; a bad name is its own problem."""
    name = info.data.get("name")
    return value if name is None else TypeAdapter(METHODS[name].settings).validate_python(value)


MethodSettings = Annotated[
    Any, PlainValidator(_method_settings, json_schema_input_type=Union[*(entry.settings for entry in METHODS.values())])
]


class MethodConfig(_Section):
    """The method and its settings, which are what ``grpo_tta.METHODS`` says of that name."""

    name: Annotated[str, AfterValidator(_method_name), Field(json_schema_extra={"enum": list(METHODS)})] = "grpo"
    settings: MethodSettings = Field(default_factory=dict, validate_default=True)


class GuardConfig(_Section):
    """The drift guard."""

    settings: GuardSettings = GuardSettings()
    reference: str | None = None
    """A safetensors file of ``grpo-tta calibrate``; without it each stream warms up on its own first frames."""


class EventTimeConfig(_Section):
    """Windows and lateness."""

    window: Annotated[str, BeforeValidator(_window)] = "fixed:60s"
    max_session: Duration = "1h"
    allowed_lateness: Duration = "30s"
    max_future: Duration = "10m"

    def windows(self) -> Windows:
        """As the pipeline uses them."""
        kind, _, size = self.window.partition(":")
        length = parse_duration(size)
        return Windows(
            "session" if kind == "session" else "fixed", length, max(parse_duration(self.max_session), length)
        )


class OutputConfig(_Section):
    """Where and how results are written."""

    url: Url
    format: Literal["jsonl", "parquet"] = "jsonl"
    min_probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    top_k: Annotated[int, Field(ge=1, le=100)] = 5


class CheckpointConfig(_Section):
    """Slices and what a resume does."""

    url: Url | None = None
    """Default: ``checkpoint`` under the output."""
    slice_records: Annotated[int, Field(ge=1, le=200_000)] = 2_000
    on_state_mismatch: Literal["fail", "reset"] = "fail"
    keep: Annotated[int, Field(ge=2, le=1000)] = 8


class RunConfig(_Section):
    """How the graph is run; no label depends on it."""

    runner: str = "FnApiRunner"
    beam_options: tuple[str, ...] = ()
    readers: Annotated[int, Field(ge=1, le=256)] = 4
    """Threads that fetch and decode."""


class JobConfig(_Section):
    """A labelling job."""

    source: SourceConfig
    output: OutputConfig
    labels: LabelsConfig = LabelsConfig()
    model: ModelSettings = ModelSettings()
    method: MethodConfig = MethodConfig()
    guard: GuardConfig = GuardConfig()
    event_time: EventTimeConfig = EventTimeConfig()
    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    checkpoint: CheckpointConfig = CheckpointConfig()
    run: RunConfig = RunConfig()

    @property
    def checkpoint_url(self) -> str:
        """Where plans, states and commits lie."""
        return self.checkpoint.url or self.output.url.rstrip("/") + "/checkpoint"

    @property
    def origin(self) -> str:
        """What was listed, and how streams and times were told: a checkpoint belongs to one origin."""
        path = local_path(self.source.url)
        url = self.source.url.rstrip("/") if path is None else path
        return json.dumps([url, self.source.stream_pattern, self.source.time_pattern])

    def plain(self) -> dict[str, Any]:
        """As plain data: what a YAML file would hold."""
        return self.model_dump(mode="json")

    def fingerprint(self) -> str:
        """Of everything a label depends on beside the model and the listing, which have their own.

        Files count by what they hold. Where results go and how the graph is run do not count. Raises
        `ConfigurationError` for a file that cannot be read.
        """
        plain = self.plain()
        for section, key in _NOT_OF_LABELS:
            del plain[section][key]
        del plain["run"]
        for section, key in _FILES:
            plain[section][key] = _content(f"{section}.{key}", plain[section][key])
        text = json.dumps(plain, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def method_fingerprint(self) -> str:
        """Of the settings a stream's state depends on."""
        plain = self.plain()
        text = json.dumps([plain["method"], plain["guard"]["settings"]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on it, section by section."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def read_config_file(path: str) -> dict[str, Any]:
    """A YAML configuration; raises `ConfigurationError`."""
    try:
        loaded = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"configuration file {path}: {error}") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigurationError(f"configuration file {path}: expected keys and values, got {type(loaded).__name__}")
    return loaded or {}


def make_config(values: Mapping[str, Any]) -> JobConfig:
    """Checked configuration; raises `ConfigurationError` with one line a problem."""
    try:
        return JobConfig.model_validate(values)
    except ValidationError as error:
        lines = [_problem(dict(item)) for item in error.errors()]
        raise ConfigurationError("\n".join(lines)) from error


_NEEDED = {
    "source": "--source (source.url)",
    "source.url": "--source (source.url)",
    "output": "--out (output.url)",
    "output.url": "--out (output.url)",
}


def _problem(item: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if key in _NEEDED and item["type"] == "missing":
        return f"{_NEEDED[key]} is needed"
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{key}: unknown key"
    message = str(item["msg"]).removeprefix("Value error, ")
    shown = "" if item["type"] in ("value_error", "missing") else f", got {item['input']!r}"
    return f"{key}: {message}{shown}" if key else message + shown
