"""The sections of a `JobConfig`. The method's and the guard's own settings are their dataclasses, declared once in
``grpo_tta``."""

import hashlib
import json
from typing import Annotated, Any, Literal, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    model_validator,
)

from grpo_tta.adapters.kafka.address import KafkaSecurity
from grpo_tta.adapters.kafka.positions import OutOfRangePolicy, Start, parse_numbers
from grpo_tta.adapters.storage.filesystems import is_manifest, redacted
from grpo_tta.adapters.storage.names import NamePattern
from grpo_tta.checks import described
from grpo_tta.methods import METHODS
from grpo_tta.pipeline.config.values import (
    Duration,
    FilePath,
    Url,
    check_positive,
    check_stretch,
    check_window,
    exactly,
    parse_runner,
    parse_shard,
    parse_until,
    parsed,
)
from grpo_tta.pipeline.config.values import is_kafka as is_kafka
from grpo_tta.pipeline.config.values import parse_duration as parse_duration
from grpo_tta.pipeline.windows import Windows
from grpo_tta.settings import GuardSettings


class Section(BaseModel):
    """Strict and frozen; unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, protected_namespaces=(), json_schema_extra=described
    )


_LIST = Field(strict=False)
"""Of a tuple, which YAML has as a list; what is in it stays strict."""


def made_of(kind: type[Any]) -> BeforeValidator:
    """A section that is a dataclass of ``grpo_tta``."""
    return BeforeValidator(exactly(kind))


class SourceConfig(Section):
    """Where images come from."""

    url: Url
    """Folder, glob, single file, bucket URL (of images, tar archives, videos), a manifest (``*.jsonl``) or
    ``kafka://HOST:PORT/TOPIC``; no credentials in it."""
    stream_pattern: str | None = None
    """Regular expression with ``(?P<stream>...)``, searched in the path relative to the source's root; none: its
    first folder that is no date (a day, a week, a month, a year above months, hours below a day, ``day=29``),
    ``default`` where there is none. Not used for a manifest."""
    time_pattern: str | None = None
    """The same with ``(?P<time>...)``, and before it ``(?P<date>...)`` where date and time are apart; ``auto``: a
    time that is spelt as cameras write it (``docs/robustness.md#names-and-times``), a dead letter where it may be
    another; none: the modification time. Not used for a manifest."""
    every: Annotated[Duration, AfterValidator(check_positive)] | None = None
    """Of videos, one frame in each stretch so long is labelled (``docs/guide.md#videos``); none: videos are passed
    over."""
    allow_uris: Annotated[tuple[FilePath, ...], _LIST] = ()
    """Prefixes a manifest's events may point at, beside the manifest's own folder; ``network:10.0.0.0/8`` lets web
    hosts be in a private network."""
    max_image_bytes: Annotated[int, Field(ge=1)] = 32 * 1024 * 1024
    """Bytes of one encoded image; more is a dead letter."""
    max_image_pixels: Annotated[int, Field(ge=1)] = 64_000_000
    """Pixels by the image's header, judged before anything is decoded; more is a dead letter."""
    follow: bool = False
    """Go on with files that come to the folder, glob or bucket, until stopped:
    ``docs/operating.md#following-a-folder-or-bucket``. Not for manifests; a topic is followed anyway."""
    poll: Duration = "5s"
    """Followed: between two looks at the source."""
    settle: Duration = "5s"
    """Followed: a younger file may still be written and waits."""
    look_back: Duration = "1h"
    """Followed: a file so much older than the newest one comes too late and is a dead letter."""
    give_up_after: Duration = "10m"
    """Followed: a source that cannot be listed any more is looked at again for so long."""

    @model_validator(mode="after")
    def _followable(self) -> "SourceConfig":
        if self.follow and is_kafka(self.url):
            raise ValueError("follow: a topic is followed anyway, leave --follow out")
        if self.follow and is_manifest(self.url):
            raise ValueError(
                f"follow: a manifest is read once, follow a folder, glob or bucket, got {redacted(self.url)!r}"
            )
        if self.every is not None and (self.follow or is_kafka(self.url)):
            raise ValueError("every: is for videos of a source that is listed once")
        return self

    @model_validator(mode="after")
    def _patterns(self) -> "SourceConfig":
        NamePattern(self.stream_pattern, self.time_pattern)
        return self


def _template(value: str) -> str:
    """``openai`` stands for many, of ``bench`` alone; loading a model refuses it."""
    if "{}" not in value and value != "openai":
        raise ValueError(f"a template has {{}} for the class, like 'a photo of a {{}}.', got {value!r}")
    return value


class LabelsConfig(Section):
    """What to tell apart. Without any of it the demo model's own classes."""

    file: FilePath | None = None
    """One class a line, or YAML/JSON mapping class to prompts, by the file's ending."""
    templates: Annotated[tuple[Annotated[str, AfterValidator(_template)], ...], _LIST] = ()
    """Prompts with ``{}`` for the class; none: ``a photo of a {}.``, and for names that the demo model knows its
    own prompts."""
    class_vectors: FilePath | None = None
    """Safetensors file with the tensor ``class_vectors`` ``[classes, dim]``; names from ``labels.file`` or the
    file's metadata."""


def _method_name(value: str) -> str:
    if value not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {value!r}")
    return value


def _method_settings(value: Any, info: ValidationInfo) -> Any:
    """Settings of the method named beside them, as that method's own class; a bad name is its own problem."""
    name = info.data.get("name")
    return value if name is None else exactly(METHODS[name].settings)(value)


MethodSettings = Annotated[
    Any, PlainValidator(_method_settings, json_schema_input_type=Union[*(entry.settings for entry in METHODS.values())])
]


_ONLY_IN_CODE = {"ensemble": "a second set of class vectors", "reward_model": "another frozen classifier"}


class MethodConfig(Section):
    """The method and its settings, which are what ``grpo_tta.METHODS`` says of that name."""

    name: Annotated[str, AfterValidator(_method_name), Field(json_schema_extra={"enum": list(METHODS)})] = "grpo"
    """GRPO-TTA, the frozen model, or a rival to compare with."""
    settings: MethodSettings = Field(default_factory=dict, validate_default=True)

    @model_validator(mode="after")
    def _suppliable(self) -> "MethodConfig":
        alignment = getattr(self.settings, "alignment", None)
        if alignment in _ONLY_IN_CODE:
            raise ValueError(
                f"settings.alignment {alignment!r} needs {_ONLY_IN_CODE[alignment]}, which can be given only from the "
                "library: use frozen, consensus or view"
            )
        return self

    def kind(self) -> tuple[str, str]:
        """Its name and settings, by which records of ``monitor/`` and calibrations, with a model, know each other."""
        return self.name, self.fingerprint()

    def fingerprint(self) -> str:
        """Of method and settings."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]


class GuardConfig(Section):
    """The drift guard."""

    settings: Annotated[GuardSettings, made_of(GuardSettings)] = GuardSettings()
    reference: FilePath | None = None
    """File of ``grpo-tta calibrate``; none: each stream warms up on its own first frames."""


class EventTimeConfig(Section):
    """Windows and lateness."""

    window: Annotated[str, BeforeValidator(check_window)] = "fixed:60s"
    """``fixed:LENGTH`` or ``session:GAP``; groups records, changes no label."""
    max_session: Duration = "1h"
    """Longest session; raised to the gap where it is shorter."""
    allowed_lateness: Duration = "30s"
    """An image older than its stream's newest stepped one by more is late; only in live jobs and followed ones, a
    bounded listing is sorted."""
    max_future: Duration = "10m"
    """Times further ahead of the plan's clock are capped."""

    def windows(self) -> Windows:
        """As the pipeline uses them."""
        kind, _, size = self.window.partition(":")
        length = parse_duration(size)
        return Windows(
            "session" if kind == "session" else "fixed", length, max(parse_duration(self.max_session), length)
        )


class OutputConfig(Section):
    """Where and how results are written."""

    url: Url
    """Folder or bucket for ``labels/``, ``adaptation/``, ``drift/``, ``dead_letters/``, ``monitor/`` and
    ``summary.json``, or ``kafka://HOST:PORT/LABELS_TOPIC``; no credentials in it."""
    also: Annotated[tuple[Url, ...], _LIST] = ()
    """Further places that get all records too; on the command line ``--out`` again."""
    format: Literal["jsonl", "parquet"] = "jsonl"
    """Of the record files."""
    min_probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Under it the label is ``unknown``; the top-k list stays."""
    top_k: Annotated[int, Field(ge=1, le=100)] = 5
    """Candidates in a label's list, at most the number of classes."""
    monitor: Annotated[str, BeforeValidator(check_stretch)] = "1h"
    """Stretch of event time that a record of ``monitor/`` (``docs/monitoring.md``) is about; whole seconds."""


class TopicsConfig(Section):
    """Topics beside that of the labels; by default its name with ``.adaptation``, ``.drift``, ``.dead_letters``,
    ``.monitor``."""

    adaptation: str | None = None
    """None: the labels' topic with ``.adaptation``; on the command line ``--topics adaptation=NAME,...``."""
    drift: str | None = None
    """The same with ``.drift``."""
    dead_letters: str | None = None
    """The same with ``.dead_letters``."""
    monitor: str | None = None
    """The same with ``.monitor``."""


class KafkaConfig(Section):
    """How Kafka is read and written; no label depends on it."""

    security: Annotated[KafkaSecurity, made_of(KafkaSecurity)] | None = None
    """Without it: from the environment, ``GRPO_TTA_KAFKA_PROTOCOL`` and so on. Secrets are named, never given."""
    group: Annotated[str, Field(min_length=1)] = "grpo-tta"
    """Consumer group whose processes share the partitions."""
    partitions: Annotated[str, parsed(parse_numbers)] | None = None
    """``0-3,7``: these and no others, instead of sharing with the group."""
    start: Annotated[str, parsed(Start.parse)] = "committed"
    """Of partitions that the topics have when the job is made, decided once (one added later is read from its first
    record): ``committed``, ``earliest``, ``latest``, ``timestamp:RFC3339``, ``TOPIC-PARTITION=OFFSET,...``."""
    until: Annotated[str, parsed(parse_until)] | None = None
    """``latest`` (what is there at the start) or a time, RFC 3339 with an offset; none: for ever."""
    out_of_range: OutOfRangePolicy = "fail"
    """Where the position has been deleted."""
    transactional: bool = False
    """Labels and positions in one Kafka transaction; source and output on one cluster."""
    topics: TopicsConfig = TopicsConfig()
    create_topics: bool = True
    """Output topics that are missing are made."""
    topic_partitions: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Of topics that are made."""
    session: Duration = "10s"
    """After so long without a sign of life a process's partitions go to the others."""
    shed_above: Annotated[int, Field(ge=2)] | None = None
    """A partition that is more records behind is only labelled, one forward an image, until it is less than half of
    that behind: nothing is learnt and no drift watched meanwhile."""
    discovery: Duration = "30s"
    """How soon added partitions are noticed."""
    give_up_after: Duration = "10m"
    """Slices that fail are tried again for so long."""


class CheckpointConfig(Section):
    """Slices and what a resume does."""

    url: Url | None = None
    """Folder or bucket for listing, plans, states and commits; none: ``checkpoint`` under the first
    output that is no Kafka topic."""
    slice_records: Annotated[int, Field(ge=1, le=200_000)] = 2_000
    """Events a commit; of a live job, of each partition."""
    slice_seconds: Duration = "5s"
    """Live: a slice begins so long after the one before, or earlier where it would be full."""
    on_state_mismatch: Literal["fail", "reset"] = "fail"
    """A checkpoint of other settings or another model is refused, or taken over
    (``docs/operating.md#resuming-with-other-settings``)."""
    keep: Annotated[int, Field(ge=2, le=1000)] = 8
    """Plans, commits and packs of states that garbage collection leaves."""
    forget_after: Annotated[Duration, AfterValidator(check_positive)] = "7d"
    """A stream without an image for so long, in event time up to the newest image of its partition, is
    forgotten: it starts afresh when it comes again."""
    max_state_bytes: Annotated[int, Field(ge=1024)] = 4 * 2**20
    """Of one stream; a method that needs more is refused before anything is read."""


class RunConfig(Section):
    """How the graph is run; no label depends on it."""

    runner: Annotated[str, parsed(parse_runner)] = "FnApiRunner"
    """Beam runner, by name; ``DaskRunner``: a cluster (``docs/operating.md#a-dask-cluster``)."""
    beam_options: Annotated[tuple[str, ...], _LIST] = ()
    """Beam's own options, passed through as given; one that Beam does not know is refused, unless a job server may
    know it. Of their values, which may be secrets, ``config show`` and ``summary.json`` tell none."""
    shard: Annotated[str, parsed(parse_shard)] | None = None
    """``0/4`` to ``3/4``: label this part of the streams, those whose names hash to it; the others are other
    processes'."""
    readers: Annotated[int, Field(ge=1, le=256)] = 4
    """Threads that fetch and decode."""
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Prometheus metrics, ``/healthz`` and ``/readyz`` of a live or followed job."""
    metrics_host: str = "127.0.0.1"
    """Where they are served."""
    metrics_streams: Annotated[int, Field(ge=0, le=10_000)] = 0
    """So many of the worst streams (``docs/monitoring.md``) have series of their own."""
    accuracy: FilePath | None = None
    """File of ``grpo-tta calibrate --accuracy``, by which metrics estimate accuracy; none for the packaged one, where
    it is of the job's model, method and settings."""
