"""The two ways a job ends badly; the command line turns them into exit codes."""


class ConfigurationError(ValueError):
    """The configuration cannot work; nothing was read or written. Exit code 2."""


class JobError(RuntimeError):
    """The job or its source failed; what was committed stays. Exit code 1."""
