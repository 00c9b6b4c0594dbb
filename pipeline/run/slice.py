"""Steps 2 and 3 of a slice: its graph, run."""

import logging
from collections.abc import Callable, Iterator, Sequence

from grpo_tta.adapters.kafka.errors import Fenced, KafkaFailure
from grpo_tta.adapters.storage.filesystems import MissingBackend
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sealed import SealError
from grpo_tta.pipeline.checkpoint.log import DamagedCheckpoint
from grpo_tta.pipeline.checkpoint.packs import PackReader, pack_name
from grpo_tta.pipeline.checkpoint.partition import SliceResult, no_fault
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.graph import OpenSlice, build, done
from grpo_tta.pipeline.run.garbage import collect_slice
from grpo_tta.pipeline.run.runner import make_pipeline
from grpo_tta.pipeline.watch import metrics
from grpo_tta.schemas import Counters
from grpo_tta.state import ForeignStateError, StateVersionError

_log = logging.getLogger(__name__)
_PERMANENT: tuple[type[BaseException], ...] = (
    KafkaFailure,
    ConfigurationError,
    MissingBackend,
    ForeignStateError,
    StateVersionError,
    DamagedCheckpoint,
    SealError,
)
"""What another try does not mend; of Kafka's failures those that are not retriable."""


_STATES = 512 * 2**20
"""Bytes of the states of a slice, which are in memory at once, where each event is of another stream."""


def most_records(wanted: int, state_bytes: int, partitions: int = 1) -> int:
    """Events of a slice's part: as many as ``wanted``, unless the states of so many streams, ``state_bytes`` each at
    their largest, would take too much."""
    return max(min(wanted, _STATES // max(state_bytes * partitions, 1)), 1)


def run_slice(
    job: ResolvedJob, slices: Sequence[OpenSlice], fault_point: Callable[[str], None] = no_fault
) -> list[SliceResult]:
    """Steps 2 and 3 of a slice, one graph over all its partitions; a result for each, in order."""
    fault_point("before:2")
    named = ", ".join(f"{part.plan.sequence} of {part.partition}" for part in slices)
    metrics.begin_slice()
    _forget(slices)
    try:
        _run_graph(job, slices, fault_point)
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        _log.debug("slice %s failed", named, exc_info=True)
        _forget(slices)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
        raise JobError(f"slice {named} failed and was not committed: {_cause(lines)}") from error
    metrics.end_slice()
    collect_slice()
    return [slice_result(part) for part in slices]


def is_permanent(error: BaseException) -> bool:
    """Whether trying again is no use: the error, or what it came from, is one that does not pass. The in-process runner
    hands on an error of the step's as it is, one of another process comes as a traceback in a text."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    if any(isinstance(one, _PERMANENT) and not _passes(type(one)) for one in causes):
        return True
    names = {name for kind in _PERMANENT for name in _final_names(kind)}
    return any(line.partition(": ")[0] in names for one in causes for line in str(one).splitlines())


def _final_names(kind: type[BaseException]) -> Iterator[str]:
    """Of a class and those below it, as a traceback has them; not of those that may pass."""
    if not _passes(kind):
        yield f"{kind.__module__}.{kind.__qualname__}"
    for below in kind.__subclasses__():
        yield from _final_names(below)


def _passes(kind: type[BaseException]) -> bool:
    return bool(getattr(kind, "retriable", False)) or issubclass(kind, Fenced)


def _forget(slices: Sequence[OpenSlice]) -> None:
    """What an attempt left of step 3 in this process."""
    for part in slices:
        done.pop((ObjectStore(part.checkpoint_url).url, pack_name(part.plan)), None)


def _run_graph(job: ResolvedJob, slices: Sequence[OpenSlice], fault_point: Callable[[str], None]) -> None:
    pipeline = make_pipeline(job.config.run)
    build(pipeline, job, slices, fault_point)
    pipeline.run().wait_until_finish()


def slice_result(part: OpenSlice) -> SliceResult:
    """What step 3 wrote down of a slice's part; read only where another process did it."""
    store, name = ObjectStore(part.checkpoint_url), pack_name(part.plan)
    known = done.pop((store.url, name), None)
    if known is not None:
        return known
    reader = PackReader(store)
    record = reader.record(name)
    counters = Counters.model_validate(record["counters"])
    streams, stepped = tuple(reader.streams(name)), tuple(record["stepped"])
    return SliceResult(name, streams, stepped, counters, record["newest"], reader.digest(name), record["files"])


def _cause(lines: list[str]) -> str:
    """The line of a runner's traceback that names the error."""
    named = [line for line in lines if "Error" in line.split(":", 1)[0] or "Exception" in line.split(":", 1)[0]]
    return (named or lines)[-1]
