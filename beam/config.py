"""What a transform is given: a job's configuration, of which only what concerns the transform need be given."""

import os
from collections.abc import Mapping
from typing import Any

from grpo_tta.pipeline.config.job import JobConfig, make_config, merged, read_config_file

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
        values = read_config_file(os.fspath(config))
    defaults = {"source": {"url": _NO_FOLDER}, "output": {"url": "elsewhere"}}
    return make_config(merged(merged(defaults, values), sections))
