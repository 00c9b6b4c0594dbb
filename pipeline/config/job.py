"""`JobConfig`: the one configuration of a labelling job, from a YAML file, flags, or both (flags win).

The method's and the guard's own settings are their dataclasses, declared once in ``grpo_tta``. Unknown keys are
refused, and every problem becomes one line that names the key and the value.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    Field,
    ValidationError,
    model_validator,
)

from grpo_tta.adapters.kafka.address import KafkaAddress
from grpo_tta.adapters.lines import whole_text
from grpo_tta.adapters.storage.filesystems import local_path, redacted, redacted_text
from grpo_tta.pipeline.config.problems import problem
from grpo_tta.pipeline.config.sections import (
    CheckpointConfig,
    EventTimeConfig,
    GuardConfig,
    KafkaConfig,
    LabelsConfig,
    MethodConfig,
    OutputConfig,
    RunConfig,
    Section,
    SourceConfig,
    made_of,
)
from grpo_tta.pipeline.config.values import default_checkpoint, home, option_name
from grpo_tta.pipeline.config.values import is_kafka as is_kafka
from grpo_tta.pipeline.config.values import parse_duration as parse_duration
from grpo_tta.pipeline.config.yaml_file import parse_yaml
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.schemas.base import encodable
from grpo_tta.settings import ModelSettings

_NOT_OF_LABELS = {
    "source": (
        "url",
        "stream_pattern",
        "time_pattern",
        "every",
        "follow",
        "poll",
        "settle",
        "look_back",
        "give_up_after",
    ),
    "model": ("name", "pretrained", "preprocess"),
    "output": ("url", "also"),
    "checkpoint": ("url", "slice_seconds", "keep", "max_state_bytes", "slice_records", "on_state_mismatch"),
}
_FILES = (("labels", "file"), ("labels", "class_vectors"), ("guard", "reference"))


def _content(key: str, path: str | None) -> str | None:
    if path is None:
        return None
    try:
        if not stat.S_ISREG(os.stat(path).st_mode) and not Path(path).is_dir():
            raise ConfigurationError(f"{key}: {path}: it is read more than once, so no pipe or device will do: a file")
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigurationError(f"{key}: {path}: {error.strerror or error}") from error


class JobConfig(Section):
    """A labelling job."""

    source: SourceConfig
    output: OutputConfig
    labels: LabelsConfig = LabelsConfig()
    model: Annotated[ModelSettings, made_of(ModelSettings)] = ModelSettings()
    method: MethodConfig = MethodConfig()
    guard: GuardConfig = GuardConfig()
    event_time: EventTimeConfig = EventTimeConfig()
    max_batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Images of all streams in one forward, at most; none: 64, on a GPU 256; of one stream, as many as are left to
    its next update and probe."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    kafka: KafkaConfig = KafkaConfig()
    run: RunConfig = RunConfig()

    @property
    def checkpoint_url(self) -> str:
        """Where plans, states and commits lie."""
        if self.checkpoint.url is not None:
            return self.checkpoint.url
        return default_checkpoint(next(url for url in self.outputs if not is_kafka(url)))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Every place that gets all records."""
        return (self.output.url, *self.output.also)

    @property
    def folders(self) -> tuple[str, ...]:
        """Those of them that are folders or buckets."""
        return tuple(url for url in self.outputs if not is_kafka(url))

    @model_validator(mode="after")
    def _places(self) -> "JobConfig":
        if len(set(self.outputs)) < len(self.outputs):
            raise ValueError("output: every place must be another one")
        if self.checkpoint.url is None and not self.folders:
            raise ValueError("checkpoint.url: --checkpoint is needed where every output is a Kafka topic")
        if self.checkpoint.url is not None and is_kafka(self.checkpoint.url):
            raise ValueError("checkpoint.url: a checkpoint lies in a folder or bucket, not in Kafka")
        return self

    @model_validator(mode="after")
    def _sharded(self) -> "JobConfig":
        on_cluster = self.run.runner == "DaskRunner"
        if on_cluster and self.run.shard is not None:
            raise ValueError("run.shard: DaskRunner hands out the shards itself, leave --shard out")
        name = "run.runner: DaskRunner" if on_cluster else "run.shard:"
        if not on_cluster and self.run.shard is None:
            return self
        if is_kafka(self.source.url) or self.source.follow:
            raise ValueError(f"{name} is for what is listed once; of a topic start the same command again")
        if any(map(is_kafka, self.outputs)):
            raise ValueError(f"{name} needs outputs that are folders or buckets")
        return self

    @model_validator(mode="after")
    def _transactions(self) -> "JobConfig":
        if not self.kafka.transactional:
            return self
        topics = [url for url in self.outputs if is_kafka(url)]
        if not is_kafka(self.source.url) or len(topics) != 1:
            raise ValueError("kafka.transactional: needs a Kafka source and one Kafka output")
        servers = {KafkaAddress.parse(url).servers for url in (self.source.url, *topics)}
        if len(servers) > 1:
            raise ValueError("kafka.transactional: source and output must be on the same cluster")
        return self

    @property
    def origin(self) -> str:
        """What was listed, and how streams and times were told: a checkpoint belongs to one origin. It is written down
        and shown, so of an address that holds secrets it has a digest instead."""
        path = local_path(self.source.url)
        url = self.source.url.rstrip("/") if path is None else path
        hidden = redacted(url) if path is None else url
        if hidden != url:
            url = f"{hidden} {hashlib.sha256(url.encode()).hexdigest()[:16]}"
        more = ["followed"] if self.source.follow else [f"every {every}"] if (every := self.source.every) else []
        return json.dumps([url, self.source.stream_pattern, self.source.time_pattern, *more])

    def plain(self) -> dict[str, Any]:
        """As plain data: what a YAML file would hold."""
        return self.model_dump(mode="json")

    def shown(self) -> dict[str, Any]:
        """`plain` as it may be written down: of the runner's own options, which may hold secrets, only the names, and
        addresses without theirs."""
        plain = self.plain()
        for section, key in (("source", "url"), ("output", "url"), ("checkpoint", "url")):
            plain[section][key] = None if plain[section][key] is None else redacted(plain[section][key])
        for section, key in (("source", "allow_uris"), ("output", "also")):
            plain[section][key] = [redacted(url) for url in plain[section][key]]
        plain["run"]["beam_options"] = [option_name(option) for option in self.run.beam_options]
        return plain

    def fingerprint(self) -> str:
        """Of everything a label depends on beside the model and the listing, which have their own.

        Files count by what they hold. Where results go and how the graph is run do not count. Raises
        `ConfigurationError` for a file that cannot be read.
        """
        plain = self.plain()
        for section, keys in _NOT_OF_LABELS.items():
            for key in keys:
                del plain[section][key]
        del plain["run"], plain["kafka"]
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
        loaded = parse_yaml(whole_text(home(path)))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"configuration file {path}: {error}") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigurationError(f"configuration file {path}: expected keys and values, got {type(loaded).__name__}")
    return loaded or {}


def _unusable(value: Any, key: str) -> Iterator[str]:
    """A line for each text that no file's name and no record can hold, as the bytes of a flag that are not UTF-8."""
    if isinstance(value, Mapping | list | tuple):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, part in parts:
            yield from _unusable(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str) and ("\0" in value or encodable(value) != value):
        yield f"{key}: a text of UTF-8 without NUL is needed, got {redacted_text(ascii(value))}"


def make_config(values: Mapping[str, Any]) -> JobConfig:
    """Checked configuration; raises `ConfigurationError` with one line a problem."""
    if unusable := list(_unusable(values, "")):
        raise ConfigurationError("\n".join(unusable))
    try:
        return JobConfig.model_validate(values)
    except ValidationError as error:
        lines = [problem(dict(item), JobConfig) for item in error.errors()]
        raise ConfigurationError("\n".join(lines)) from error
