"""What to compare, as the command line says it: names are checked before a model is loaded."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from grpo_tta.evaluation.cells import RESETS, ResetRule
from grpo_tta.evaluation.corruptions import CORRUPTIONS, DEVELOPMENT
from grpo_tta.evaluation.plans import CLEAN, Condition
from grpo_tta.evaluation.stream_makers import STREAMS
from grpo_tta.methods import METHODS
from grpo_tta.pipeline.config.job import make_config, read_config_file
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.settings import GrpoSettings

EPISODIC = "grpo-episodic"
"""Beside the keys of ``METHODS``: grpo with the settings of its episodic mode."""
_DEFAULT_SEVERITY = 3
_GROUPS = {
    "development": DEVELOPMENT,
    "imagenet-c": tuple(kind.name for kind in CORRUPTIONS.values() if not kind.extra),
    "extra": tuple(kind.name for kind in CORRUPTIONS.values() if kind.extra),
    "all": tuple(CORRUPTIONS),
}


@dataclass(frozen=True)
class BenchMethod:
    """A row's method: what it is called, which it is, and how it is set."""

    label: str
    name: str
    settings: Any

    def of_seed(self, seed: int) -> Any:
        """Its settings with this seed, where it has one."""
        return replace(self.settings, seed=seed) if METHODS[self.name].has("seed") else self.settings

    @property
    def digest(self) -> str:
        """8 hex digits over name and settings."""
        return short_digest([self.name, asdict(self.settings)])


def short_digest(value: Any) -> str:
    """8 hex digits over what JSON makes of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def parse_methods(text: str, variants: Sequence[str] = (), own: BenchMethod | None = None) -> list[BenchMethod]:
    """``grpo,tent`` and ``LABEL=FILE.yaml``, whose method section it is. ``own`` takes the place of the method of its
    name. The method called grpo comes first: others are compared with it. Raises `ConfigurationError`."""
    made = []
    for name in _names(text, "--methods"):
        if own is not None and name == own.name:
            made.append(own)
        elif name == EPISODIC:
            made.append(BenchMethod(name, "grpo", GrpoSettings.episodic()))
        elif name in METHODS:
            made.append(BenchMethod(name, name, METHODS[name].settings()))
        else:
            raise ConfigurationError(f"--methods: {name!r} is none of {', '.join([*METHODS, EPISODIC])}")
    made += [_variant(text) for text in variants]
    labels = [method.label for method in made]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ConfigurationError(f"--methods and --variant name {', '.join(twice)} more than once")
    return sorted(made, key=lambda method: method.label != "grpo")


def _variant(text: str) -> BenchMethod:
    label, sign, path = text.partition("=")
    if not (label and sign and path):
        raise ConfigurationError(f"--variant: expected LABEL=FILE.yaml, got {text!r}")
    section = read_config_file(path).get("method", {})
    config = make_config({"source": {"url": "unused"}, "output": {"url": "unused"}, "method": section})
    return BenchMethod(label, config.method.name, config.method.settings)


def parse_streams(text: str) -> list[str]:
    """Names of ``STREAMS``; raises `ConfigurationError`."""
    names = _names(text, "--streams")
    for name in names:
        if name not in STREAMS:
            raise ConfigurationError(f"--streams: {name!r} is none of {', '.join(STREAMS)}")
    return names


def parse_resets(text: str) -> list[ResetRule]:
    """Rules in the order they must run in; raises `ConfigurationError`."""
    names = _names(text, "--resets")
    for name in names:
        if name not in RESETS:
            raise ConfigurationError(f"--resets: {name!r} is none of {', '.join(RESETS)}")
    for name in ("periodic", "random"):
        if name in names and "guard" not in names:
            raise ConfigurationError(f"--resets: {name} takes the guard's number of resets: name guard too")
    return [rule for rule in RESETS if rule in names]


def parse_conditions(text: str, severity: int = _DEFAULT_SEVERITY) -> list[Condition]:
    """``fog:3,contrast,clean,all:5``: kinds or groups of kinds; ``severity`` where none is given.

    Raises `ConfigurationError`.
    """
    made: list[Condition] = []
    for entry in _names(text, "--corruptions"):
        kind, _, given = entry.partition(":")
        if entry == "clean":
            made.append(CLEAN)
            continue
        kinds = _GROUPS.get(kind, (kind,))
        if any(name not in CORRUPTIONS for name in kinds):
            known = ", ".join([*CORRUPTIONS, *_GROUPS, "clean"])
            raise ConfigurationError(f"--corruptions: {kind!r} is none of {known}")
        if given and given not in {"1", "2", "3", "4", "5"}:
            raise ConfigurationError(f"--corruptions: severity of {kind} must be 1 to 5, got {given!r}")
        made += [Condition(name, int(given or severity)) for name in kinds]
    return list(dict.fromkeys(made))


def cells_of(stream: str, given: Sequence[Condition]) -> list[list[Condition]]:
    """The conditions of each stream of that kind; without any given: development's where it must be shifted, else
    clean. Raises `ConfigurationError` where only ``clean`` is given and the stream needs a corruption."""
    kind = STREAMS[stream]
    if kind.uses == "clean":
        return [[CLEAN]]
    conditions = list(given)
    if not conditions:
        conditions = [Condition(name, _DEFAULT_SEVERITY) for name in DEVELOPMENT] if kind.shifted else [CLEAN]
    if kind.shifted:
        conditions = [condition for condition in conditions if condition != CLEAN]
    if not conditions:
        raise ConfigurationError(f"--corruptions: stream {stream} needs a corruption, got clean")
    if stream == "gradual":  # it runs through all severities
        conditions = list(dict.fromkeys(Condition(condition.kind, 1) for condition in conditions))
    return [conditions] if kind.uses == "several" else [[condition] for condition in conditions]


def name_of(conditions: Sequence[Condition]) -> tuple[str, int | None]:
    """Corruption and severity of a row: of one condition its own; of several their group's name if they are one at
    one severity, else all their names and ``None``."""
    if len(conditions) == 1:
        return conditions[0].kind or "clean", conditions[0].severity
    severities = {condition.severity for condition in conditions}
    kinds = {condition.kind for condition in conditions}
    group = next((name for name, members in _GROUPS.items() if kinds == set(members)), None)
    if group is not None and len(severities) == 1 and len(conditions) == len(kinds):
        return group, severities.pop()
    return "+".join(condition.name for condition in conditions), None


def _names(text: str, flag: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ConfigurationError(f"{flag}: expected names with commas between them, got {text!r}")
    return list(dict.fromkeys(names))
