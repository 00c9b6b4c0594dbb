"""The flags of the commands that take a job's configuration, and where each goes in it."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from grpo_tta.methods import METHODS
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.settings import GrpoSettings

_METHOD_SETTING = "method.settings."


class _Once(argparse.Action):
    """A flag that other ones beside it lead people to repeat."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Raises argparse's error the second time."""
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, "is given twice: several sources are a glob, or lines of a manifest")
        setattr(namespace, self.dest, values)


Flag = tuple[str, str, dict[str, Any]]
"""A flag, the configuration's key that it sets, and what argparse is told."""
FLAGS: dict[str, list[Flag]] = {
    "what is read": [
        (
            "--source",
            "source.url",
            {"action": _Once, "metavar": "URL", "help": "folder, glob, bucket, manifest or kafka://HOST:PORT/TOPIC"},
        ),
        (
            "--stream-pattern",
            "source.stream_pattern",
            {"metavar": "REGEX", "help": "which part of the path is the camera: (?P<stream>...)"},
        ),
        (
            "--time-pattern",
            "source.time_pattern",
            {"metavar": "REGEX", "help": "which part of the path is the time: (?P<time>...)"},
        ),
        ("--every", "source.every", {"metavar": "1s", "help": "label frames of videos, so far apart"}),
        (
            "--allow-uri",
            "source.allow_uris",
            {"action": "append", "metavar": "PREFIX", "help": "a prefix a manifest may point at; may be repeated"},
        ),
    ],
    "classes and model": [
        (
            "--labels",
            "labels.file",
            {"metavar": "FILE", "help": "one class a line, or YAML/JSON mapping class -> prompts"},
        ),
        (
            "--template",
            "labels.templates",
            {"action": "append", "metavar": "TEXT", "help": "prompt with {} for the class; may be repeated"},
        ),
        (
            "--class-vectors",
            "labels.class_vectors",
            {"metavar": "FILE", "help": "safetensors file with 'class_vectors' [C, D]"},
        ),
        (
            "--model",
            "model.name",
            {
                "metavar": "NAME",
                "help": "open_clip architecture, local-dir:PATH or hf-hub:ORG/NAME (default: the demo model)",
            },
        ),
        ("--pretrained", "model.pretrained", {"metavar": "TAG|PATH", "help": "open_clip tag or a local weight file"}),
        ("--device", "model.device", {"choices": ["auto", "cpu", "cuda"], "help": "default: auto"}),
        ("--threads", "model.threads", {"type": int, "metavar": "N", "help": "torch threads (default: torch's own)"}),
        (
            "--max-batch-size",
            "max_batch_size",
            {"type": int, "metavar": "N", "help": "images of all streams in one forward (default: 64, on a GPU 256)"},
        ),
    ],
    "method and drift guard": [
        (
            "--method",
            "method.name",
            {
                "choices": tuple(METHODS),
                "help": f"{', '.join(METHODS)} (default: grpo)",
                "metavar": "NAME",
            },
        ),
        ("--mode", "method.settings.mode", {"choices": ["online", "episodic"], "help": "of grpo; default: online"}),
        (
            "--tune",
            "method.settings.tune",
            {"choices": ["norm", "lora", "full"], "help": "of grpo (default: norm) and rlcf (default: full)"},
        ),
        ("--seed", "method.settings.seed", {"type": int, "metavar": "N", "help": "of methods with views; default: 0"}),
        ("--on-shift", "guard.settings.on_shift", {"choices": ["reset", "event"], "help": "default: event"}),
        ("--reference", "guard.reference", {"metavar": "FILE", "help": "of 'grpo-tta calibrate'"}),
        (
            "--window",
            "event_time.window",
            {"metavar": "fixed:60s|session:5m", "help": "event-time windows (default: fixed:60s)"},
        ),
        (
            "--allowed-lateness",
            "event_time.allowed_lateness",
            {"metavar": "30s", "help": "live or followed: an older image is not learnt from (default: 30s)"},
        ),
    ],
    "what is written": [
        (
            "--out",
            "output.url",
            {
                "action": "append",
                "metavar": "URL",
                "help": "folder or bucket, or kafka://HOST:PORT/LABELS_TOPIC; may be repeated",
            },
        ),
        ("--format", "output.format", {"choices": ["jsonl", "parquet"], "help": "default: jsonl"}),
        ("--min-probability", "output.min_probability", {"type": float, "metavar": "P", "help": "under it: 'unknown'"}),
    ],
    "how the job runs": [
        ("--checkpoint", "checkpoint.url", {"metavar": "URL", "help": "default: OUT/checkpoint"}),
        (
            "--slice-records",
            "checkpoint.slice_records",
            {"type": int, "metavar": "N", "help": "events a commit (default: 2000)"},
        ),
        (
            "--on-state-mismatch",
            "checkpoint.on_state_mismatch",
            {"choices": ["fail", "reset"], "help": "states of another model or settings (default: fail)"},
        ),
        (
            "--follow",
            "source.follow",
            {"action": "store_true", "help": "go on with files that come to the folder or bucket, until stopped"},
        ),
        (
            "--shard",
            "run.shard",
            {"metavar": "I/N", "help": "this part of the streams, 0/N to N-1/N; one process each"},
        ),
        ("--runner", "run.runner", {"metavar": "NAME", "help": "Beam runner (default: FnApiRunner)"}),
    ],
    "Kafka topics, with --source kafka://HOST:PORT[,HOST:PORT]/TOPIC[,TOPIC]": [
        ("--group", "kafka.group", {"metavar": "NAME", "help": "consumer group that shares the partitions"}),
        (
            "--partitions",
            "kafka.partitions",
            {"metavar": "0-3,7", "help": "read these instead of sharing with a group"},
        ),
        (
            "--start",
            "kafka.start",
            {
                "metavar": "WHERE",
                "help": "without a commit: committed (default), earliest, latest, timestamp:RFC3339, "
                "TOPIC-PARTITION=OFFSET,...",
            },
        ),
        ("--until", "kafka.until", {"metavar": "latest|RFC3339", "help": "end there (default: never)"}),
        (
            "--out-of-range",
            "kafka.out_of_range",
            {"choices": ["fail", "earliest", "latest"], "help": "where the position was deleted (default: fail)"},
        ),
        (
            "--shed-above",
            "kafka.shed_above",
            {
                "type": int,
                "metavar": "RECORDS",
                "help": "only label, by one forward, while a partition is more behind (default: never)",
            },
        ),
        ("--slice-seconds", "checkpoint.slice_seconds", {"metavar": "5s", "help": "between two commits (default: 5s)"}),
        (
            "--transactional",
            "kafka.transactional",
            {"action": "store_true", "help": "labels and positions in one Kafka transaction"},
        ),
        (
            "--topics",
            "kafka.topics",
            {
                "metavar": "drift=NAME,...",
                "help": "of adaptation, drift, dead_letters, monitor (default: LABELS_TOPIC.drift, ...)",
            },
        ),
    ],
    "metrics": [
        ("--metrics-port", "run.metrics_port", {"type": int, "metavar": "P", "help": "Prometheus, /healthz, /readyz"}),
        ("--metrics-host", "run.metrics_host", {"metavar": "ADDRESS", "help": "where (default: 127.0.0.1)"}),
        (
            "--metrics-streams",
            "run.metrics_streams",
            {"type": int, "metavar": "N", "help": "series of their own for the N worst streams (default: 0)"},
        ),
        (
            "--accuracy",
            "run.accuracy",
            {
                "metavar": "FILE",
                "help": "of 'grpo-tta calibrate': metrics estimate accuracy (default: the packaged one, if it fits)",
            },
        ),
    ],
}
"""By the group that they stand in in the help of ``label``."""
_FIRST = (
    "--source",
    "--out",
    "--labels",
    "--model",
    "--pretrained",
    "--stream-pattern",
    "--method",
    "--checkpoint",
    "--device",
)
"""What most calls need: with ``--config`` all that the short help shows."""
_OF_CALIBRATE = ("what is read", "classes and model")


def all_flags() -> Iterator[Flag]:
    """In the order of the help."""
    for flags in FLAGS.values():
        yield from flags


def add_job_flags(parser: argparse.ArgumentParser, *, label: bool, everything: bool) -> None:
    """Every configuration flag; none has a default of its own: absent flags leave the file's or the model's value.

    ``everything``: the help shows all of them.
    """
    first = parser.add_argument_group("flags")
    for flag, _, options in sorted(all_flags(), key=_place):
        if flag in _FIRST and (label or flag in _names(_OF_CALIBRATE)):
            first.add_argument(flag, default=None, **options)
    first.add_argument("--config", metavar="FILE.yaml", help="configuration file; flags win over it")
    for title, flags in FLAGS.items():
        group = parser.add_argument_group(title)
        for flag, _, options in flags if label or title in _OF_CALIBRATE else []:
            if flag not in _FIRST:
                shown = options if everything else {**options, "help": argparse.SUPPRESS}
                group.add_argument(flag, default=None, **shown)


def _place(flag: Flag) -> int:
    return _FIRST.index(flag[0]) if flag[0] in _FIRST else len(_FIRST)


def _names(titles: Sequence[str]) -> set[str]:
    return {flag for title in titles for flag, _, _ in FLAGS[title]}


def add_some_flags(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """These of the configuration's flags, as the other commands have them."""
    for flag, _, options in all_flags():
        if flag in names:
            parser.add_argument(flag, default=None, **options)


def job_values(arguments: argparse.Namespace, beam_options: list[str]) -> dict[str, Any]:
    """The configuration's values from file and flags, not yet checked. The file is read once for one command line: it
    may be a pipe, which is empty the second time."""
    from grpo_tta.pipeline.config.job import merged, read_config_file

    if not hasattr(arguments, "config_values"):
        arguments.config_values = read_config_file(arguments.config) if arguments.config else {}
    values = arguments.config_values
    flags: dict[str, Any] = {}
    for flag, key, _ in all_flags():
        value = getattr(arguments, flag.lstrip("-").replace("-", "_"), None)
        if value is not None:
            _put(flags, key, value)
    _shape(flags)
    if beam_options:
        _put(flags, "run.beam_options", beam_options)
    values = merged(values, flags)
    _check_method_flags(values, flags)
    return _episodic(values)


def check_values(arguments: argparse.Namespace, beam_options: list[str]) -> dict[str, Any]:
    """`job_values` of ``check``, which writes nothing and needs no place for it."""
    from grpo_tta.pipeline.config.job import merged

    return merged({"output": {"url": "memory://nowhere"}}, job_values(arguments, beam_options))


def _shape(flags: dict[str, Any]) -> None:
    """Repeated outputs and the topics' names as the configuration has them."""
    output, kafka = flags.get("output", {}), flags.get("kafka", {})
    if "url" in output:
        output["url"], *also = output["url"]
        if also:
            output["also"] = also
    if "topics" in kafka:
        pairs = [part.partition("=") for part in kafka["topics"].split(",")]
        if not all(sign and name for _, sign, name in pairs):
            raise ConfigurationError(f"--topics: expected KIND=NAME,..., got {kafka['topics']!r}")
        kafka["topics"] = {kind.strip(): name.strip() for kind, _, name in pairs}
        if len(kafka["topics"]) < len(pairs):
            raise ConfigurationError(f"--topics: a kind is in it twice, got {','.join(map(''.join, pairs))!r}")


def _check_method_flags(values: dict[str, Any], flags: dict[str, Any]) -> None:
    """Refuse a flag for a setting that the chosen method does not have."""
    given = flags.get("method", {}).get("settings", {})
    name = _section(values, "method").get("name", "grpo")
    if not given or name not in METHODS:
        return
    for flag, key, _ in all_flags():
        field = key.removeprefix(_METHOD_SETTING)
        if field != key and field in given and not METHODS[name].has(field):
            having = [other for other, entry in METHODS.items() if entry.has(field)]
            raise ConfigurationError(f"{flag} is of {', '.join(having)}; method {name} has no such setting")


def _episodic(values: dict[str, Any]) -> dict[str, Any]:
    """Episodic mode has defaults of its own; what was given explicitly wins over them."""
    method = _section(values, "method")
    settings = _section(method, "settings")
    if method.get("name", "grpo") != "grpo" or settings.get("mode") != "episodic":
        return values
    from grpo_tta.pipeline.config.job import merged

    return merged({"method": {"settings": asdict(GrpoSettings.episodic())}}, values)


def _section(values: dict[str, Any], key: str) -> dict[str, Any]:
    """A part of unchecked values; empty where it is missing or no mapping, which the check of the whole will tell."""
    part = values.get(key)
    return part if isinstance(part, dict) else {}


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ConfigurationError(f"{key}: {part} must hold keys and values")
    values[last] = value
