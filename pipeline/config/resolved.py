"""A job as it is when it begins: its configuration, and what the files that it names held then."""

from dataclasses import dataclass

from grpo_tta.pipeline.config.job import JobConfig
from grpo_tta.pipeline.errors import ConfigurationError


@dataclass(frozen=True)
class ResolvedJob:
    """``fingerprint``: of everything a label depends on beside the model and the listing. ``method_fingerprint``: of
    what a stream's state depends on. Both are of the beginning: a file that is edited while the job runs changes
    neither them nor a label."""

    config: JobConfig
    fingerprint: str
    method_fingerprint: str

    @classmethod
    def of(cls, config: "JobConfig | ResolvedJob") -> "ResolvedJob":
        """Reads the files that ``config`` names, once; raises `ConfigurationError`. What is resolved stays as it is."""
        if isinstance(config, ResolvedJob):
            return config
        return cls(config, config.fingerprint(), config.method_fingerprint())

    @property
    def key(self) -> str:
        """Equal for jobs that can share a model in a process."""
        config = self.config
        return repr((self.fingerprint, config.model, config.source.url, config.run.readers))

    def check_files(self) -> None:
        """Raises `ConfigurationError` where a file does not hold any more what it did when the job began: a worker that
        starts later would label by other classes under the old fingerprint."""
        if self.config.fingerprint() != self.fingerprint:
            raise ConfigurationError(
                "a file of the configuration (labels, class vectors or reference) was changed after the job began: "
                "put the old one back, or stop the job and start it again with the new one"
            )
