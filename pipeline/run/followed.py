"""`Following`: the waiting side of a job over a folder or bucket that is followed.

The source is listed every ``source.poll`` while there is nothing to label; what came is appended to the listing
(`adapters.storage.follow`), and the driver runs slices to its new end. A source that cannot be listed at the beginning
is an error at once, later it is tried again for ``source.give_up_after``.
"""

import logging
import time
from collections.abc import Callable

from grpo_tta.adapters.storage.follow import Follower
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.source import SourceError
from grpo_tta.pipeline.config.job import parse_duration
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.label.load import images_labelled
from grpo_tta.pipeline.run.driver import PARTITION, Progress
from grpo_tta.pipeline.watch import metrics
from grpo_tta.pipeline.watch.health import LiveStatus
from grpo_tta.pipeline.watch.progress import LiveProgress
from grpo_tta.schemas import Commit

_log = logging.getLogger(__name__)
_NAP = 0.1
"""Seconds between two looks whether to stop."""
_STALE_SECONDS = 600.0
_STALE_POLLS = 12
"""A job that has neither committed nor looked nor labelled an image for so long is not ready."""


class Following:
    """``identity``: the checkpoint's. ``clock``: seconds since the epoch. ``status`` is what the metrics' server says.

    Raises `ConfigurationError` for a checkpoint of another source.
    """

    def __init__(
        self,
        job: ResolvedJob,
        store: ObjectStore,
        *,
        identity: str = "",
        stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        config, source = job.config, job.config.source
        try:
            self._follower = Follower(
                store,
                source.url,
                stream_pattern=source.stream_pattern,
                time_pattern=source.time_pattern,
                origin=config.origin,
                job=identity,
                settle=parse_duration(source.settle),
                look_back=parse_duration(source.look_back),
            )
        except ValueError as error:
            raise ConfigurationError(f"source: {error}") from error
        self._stop = stop
        self._clock = clock
        self._poll = parse_duration(source.poll) / 1e6
        self._give_up = parse_duration(source.give_up_after) / 1e6
        self._looked = time.monotonic()
        self._failing_since: float | None = None
        self.status = LiveStatus(max(_STALE_SECONDS, _STALE_POLLS * self._poll), lambda: images_labelled(job))

    def begin(self, latest: Commit | None) -> int:
        """Look for the first time; the listing's end. Raises ``SourceError``, and `JobError` where the listing does not
        reach the commit that the job goes on from."""
        if latest is not None and latest.position > len(self._follower):
            raise JobError(
                f"the checkpoint is at position {latest.position} of a listing that holds {len(self._follower)}: parts "
                "of the checkpoint are gone, give the job another --out and --checkpoint"
            )
        self._look()
        return len(self._follower)

    def grow(self, position: int) -> int:
        """Wait until the listing reaches further than ``position``, or until ``stop()``; its end."""
        self._follower.collect(position)
        while len(self._follower) <= position and self._wait():
            self._try_look()
        return len(self._follower)

    def passed_over(self) -> dict[str, int]:
        """By the last look, by suffix."""
        return self._follower.passed.plain()

    def _wait(self) -> bool:
        """Until the next look is due; whether to go on."""
        while not self._stop():
            left = self._looked + self._poll - time.monotonic()
            if left <= 0:
                return True
            time.sleep(min(left, _NAP))
        return False

    def committed(self, progress: Progress) -> None:
        """Count the last slice in the metrics."""
        result = progress.result
        if result is not None:
            seconds = result.counters.events / progress.images_per_second
            owned, lag = {PARTITION: progress.done}, {PARTITION: progress.total - progress.done}
            images = result.counters.labels
            self.status.committed(LiveProgress(images, seconds, owned, lag, (result,), progress.forgotten))
            self.status.turned()

    def _look(self) -> None:
        self._looked = time.monotonic()
        self._follower.poll(round(self._clock() * 1e6))
        metrics.note_passed_over(self.passed_over())
        self.status.owns(1)
        self.status.turned()

    def _try_look(self) -> None:
        try:
            self._look()
        except (SourceError, OSError) as error:
            now = time.monotonic()
            self._failing_since = self._failing_since or now
            if now - self._failing_since > self._give_up:
                raise
            self.status.failed(error)
            _log.warning("%s; looked at again in %.1f s", error, self._poll)
        else:
            self._failing_since = None
