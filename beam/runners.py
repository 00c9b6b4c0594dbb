"""Which Beam runners can run what, and waiting for one that may hang."""

import logging
import threading
import time
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DebugOptions
from apache_beam.runners.runner import PipelineState
from apache_beam.transforms.window import SlidingWindows

from grpo_tta.pipeline.config.job import parse_duration
from grpo_tta.pipeline.errors import ConfigurationError, JobError

_log = logging.getLogger(__name__)
_WAYS = (
    "PrismRunner, or a PortableRunner, FlinkRunner or DataflowRunner (docs/deploy.md); or label the topic by "
    "'grpo-tta label --source kafka://...'"
)
_NOT_ENDLESS = {
    "FnApiRunner": "it runs nothing behind a source before the source has ended",
    "BundleBasedDirectRunner": "it runs no splittable DoFn",
    "SwitchingDirectRunner": "it is Beam's default, and another runner on each machine",
    "SparkRunner": "it has no splittable DoFns",
    "DaskRunner": "it does not stream",
    "InteractiveRunner": "it does not stream",
}
_NO_STATE = {
    "SparkRunner": "it was never tried",
    "DaskRunner": "it has no state and no timers",
}
_NOT_BOUNDED = {
    "SparkRunner": "it was never tried",
    "DaskRunner": "it gives all outputs of a step to whoever takes one of them",
}
_BOUNDED_WAYS = "FnApiRunner or PrismRunner; or label by 'grpo-tta label --runner DaskRunner'"
_WHOLE_BUNDLES = "prism_disable_sdf_split"
_POLL = 1.0
_CANCEL_SECONDS = 10


class JobStalled(JobError):
    """A job that its runner says is running has done nothing for too long."""


def check_streams(pipeline: beam.Pipeline) -> None:
    """Raises `ConfigurationError` where the pipeline's runner cannot run a source that never ends."""
    _refuse(pipeline, _NOT_ENDLESS, "a topic without an end", _WAYS)


def check_continuous(pipeline: beam.Pipeline) -> None:
    """Raises `ConfigurationError` where the pipeline's runner has no state and timers."""
    _refuse(pipeline, _NO_STATE, "an input without an end", _WAYS)


def check_bounded(pipeline: beam.Pipeline) -> None:
    """Raises `ConfigurationError` where the pipeline's runner cannot label an input that ends."""
    _refuse(pipeline, _NOT_BOUNDED, "LabelImages", _BOUNDED_WAYS)


def check_windows(elements: beam.PCollection) -> None:
    """Raises `ConfigurationError` where each element is in several windows, and so is several elements."""
    windows = elements.windowing.windowfn
    if isinstance(windows, SlidingWindows) and windows.period < windows.size:
        raise ConfigurationError(
            "each element is in several of the SlidingWindows it comes in, and would be taken once for each; put them "
            "into such windows behind this step"
        )


def keep_bundles_whole(pipeline: beam.Pipeline) -> None:
    """For steps with state: Prism 2.77 splits a bundle that takes long, also in the midst of a key's elements, and runs
    both parts at once; of that key's state it keeps what the part says that ends last. Other runners pass the
    experiment over."""
    pipeline.options.view_as(DebugOptions).add_experiment(_WHOLE_BUNDLES)


def _refuse(pipeline: beam.Pipeline, known: dict[str, str], what: str, ways: str) -> None:
    runner = type(pipeline.runner).__name__
    if runner in known:
        name = runner.removeprefix("Switching")  # how Beam's class of that name is called
        raise ConfigurationError(f"{name} is not supported for {what}: {known[runner]}. Take {ways}")


def wait_until_finish(result: Any, give_up_after: str = "5m") -> None:
    """Wait for a pipeline that was begun by ``run()``, as long as it moves.

    A runner may go on saying that a job is running though its workers never came, or hang: Prism does. Where no counter
    of the job has moved for ``give_up_after`` the job is cancelled and `JobStalled` raised. The readers of an endless
    topic count each look at it, so a topic to which nothing comes is no standstill. A runner that tells no counters is
    waited for without an end. Raises what the runner raises for a job that fails, ValueError for a bad duration.
    """
    patience = parse_duration(give_up_after) / 1e6
    watch = _Watch(result)
    watch.start()
    while watch.is_alive():
        watch.join(_POLL)
        if watch.is_alive() and time.monotonic() - watch.moved > patience:
            cancelling = threading.Thread(target=_cancel, args=(result,), daemon=True)
            cancelling.start()
            cancelling.join(_CANCEL_SECONDS)
            raise JobStalled(
                f"no counter of the job has moved for {patience:.0f} s, though its runner says {watch.state}: its "
                "workers are gone or stuck. The job was cancelled; see to the workers, and start it again: it goes on "
                "from the committed offsets"
            )
    if watch.failure is not None:
        raise JobStalled(
            f"the job's runner does not answer: {watch.failure!r}; start it, and the job, again"
        ) from watch.failure
    result.wait_until_finish()


class _Watch(threading.Thread):
    """Asks the runner again and again, in a thread of its own: it may not answer while a worker does not."""

    def __init__(self, result: Any) -> None:
        super().__init__(name="watch-job", daemon=True)
        self._result = result
        self.state = "nothing"
        self.failure: Exception | None = None
        self.moved = time.monotonic()

    def run(self) -> None:
        """Until the job has come to its end."""
        seen: dict[str, Any] = {}
        try:
            while not PipelineState.is_terminal(state := str(self._result.state)):
                self.state, now = state, _counters(self._result)
                if now is None and not seen:  # a runner that tells none
                    self.moved = time.monotonic()
                elif now is not None and now != seen:
                    seen, self.moved = now, time.monotonic()
                time.sleep(_POLL)
        except Exception as error:  # the client library's own, of a server that is gone
            self.failure = error


def _counters(result: Any) -> dict[str, Any] | None:
    """The steps' own counters by name; None where the runner does not tell. A runner's counters of elements are not
    among them: Prism's move though its workers are halted."""
    if hasattr(result, "_metrics"):
        result._metrics = None  # Beam asks a job server once, and remembers
    try:
        found = result.metrics().query()["counters"]
    except Exception as error:  # each runner has errors of its own
        _log.debug("no metrics: %r", error)
        return None
    return {str(metric.key): metric.result for metric in found if metric.key.metric.namespace != "beam"}


def _cancel(result: Any) -> None:
    try:
        result.cancel()
    except Exception as error:
        _log.warning("the job could not be cancelled: %r", error)
