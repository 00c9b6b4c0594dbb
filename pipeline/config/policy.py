"""What a job's events may point at."""

from grpo_tta.adapters.storage.filesystems import scheme_of
from grpo_tta.adapters.storage.policy import UriPolicy
from grpo_tta.pipeline.config.job import JobConfig
from grpo_tta.pipeline.config.values import is_kafka
from grpo_tta.pipeline.errors import ConfigurationError


def uri_policy(config: JobConfig) -> UriPolicy:
    """What events may point at: below the source's own folder, and ``allow_uris``; a topic has no folder.

    Raises `ConfigurationError`.
    """
    allowed = config.source.allow_uris
    try:
        if is_kafka(config.source.url):
            return UriPolicy({scheme_of(prefix) for prefix in allowed} or {"file"}, allowed)
        return UriPolicy.for_source(config.source.url, allowed)
    except ValueError as error:
        raise ConfigurationError(f"source: {error}") from error
