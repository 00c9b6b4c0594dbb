"""What a transform is given: a job's configuration, of which only what concerns the transform need be given."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from grpo_tta.adapters.storage.filesystems import redacted, scheme_of
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.source import check_source
from grpo_tta.pipeline.config.job import JobConfig, make_config, merged, read_config_file
from grpo_tta.pipeline.config.values import is_kafka
from grpo_tta.pipeline.errors import ConfigurationError

Config = JobConfig | Mapping[str, Any] | str | os.PathLike[str]
"""A job's configuration, its values, or the path of a YAML file with them (``docs/configuration.md``)."""
_NO_FOLDER = "kafka://elsewhere:9092/events"
"""A source below which nothing lies: what events may point at is then ``source.allow_uris`` alone."""


def config_of(config: Config, **sections: Mapping[str, Any]) -> JobConfig:
    """``config`` with ``sections`` laid on it; source and output may be left out. Raises `ConfigurationError`."""
    if isinstance(config, JobConfig):
        values: Mapping[str, Any] = config.plain()
    elif isinstance(config, Mapping):
        values = config
    else:
        try:
            path = os.fspath(config)
        except TypeError:
            kind = type(config).__name__
            raise ConfigurationError(
                f"a configuration is a JobConfig, a mapping or the path of a YAML file, got {kind}"
            ) from None
        values = read_config_file(path)
    defaults = {"source": {"url": _NO_FOLDER}, "output": {"url": "elsewhere"}}
    return make_config(merged(merged(defaults, values), sections))


def place_of(url: str | os.PathLike[str]) -> str:
    """Where files of a transform lie: a folder or bucket. Raises `ConfigurationError` for what can be none."""
    return _address(url, "place for files", ObjectStore)


def source_of(url: str | os.PathLike[str]) -> str:
    """A source that is listed. Raises `ConfigurationError` for what can be none."""
    return _address(url, "source", check_source, ", which ReadImagesFromKafka reads")


def _address(url: str | os.PathLike[str], what: str, check: Callable[[str], object], of_kafka: str = "") -> str:
    try:
        text = os.fspath(url)
        if is_kafka(text):
            raise ValueError(f"{redacted(text)!r} is a Kafka address{of_kafka}")
        check(text)
        _check_scheme(text)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"no {what}: {error}") from error
    return text


def check_shards(shards: int) -> None:
    """Raises ValueError for what is no number of shards."""
    if isinstance(shards, bool) or not isinstance(shards, int) or shards < 1:
        raise ValueError(f"shards must be >= 1, got {shards!r}")


def _check_scheme(url: str) -> None:
    import fsspec

    if scheme_of(url) not in fsspec.available_protocols():
        raise ValueError(f"{redacted(url)!r} has an unknown scheme; use a path or one of file, s3, gs, az")
