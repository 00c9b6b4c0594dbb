"""Job configurations over the demo feed, for the benchmarks that run whole jobs."""

from pathlib import Path

from grpo_tta.demo.feed import STREAM_PATTERN, TIME_PATTERN
from grpo_tta.pipeline.config.job import JobConfig, make_config


def feed_config(feed: Path, out: Path, **sections: dict[str, object]) -> JobConfig:
    """The default job over a feed of ``grpo-tta demo feed``; ``sections`` are laid over it."""
    source = {"url": str(feed), "stream_pattern": STREAM_PATTERN, "time_pattern": TIME_PATTERN}
    return make_config({"source": source, "output": {"url": str(out)}, **sections})
