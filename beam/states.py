"""States of streams on their way from one run to another: where they lie, and the transforms that read and write them.

A bounded run leaves one file of all its streams, a continuous one a file for each stream that it writes anew whenever
the stream was stepped; a job's checkpoint has them too. Where a place has several of a stream, the one that has seen
the newest image counts.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from hashlib import blake2b
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.beam.config import place_of
from grpo_tta.beam.places import claim_place
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.packs import PackReader, write_pack
from grpo_tta.pipeline.errors import JobError
from grpo_tta.pipeline.graph import newest_image
from grpo_tta.pipeline.watch.status import partition_logs

_ALL, _EACH = "states.pack", "states"
State = tuple[str, bytes]
"""A stream and its encoded state (`grpo_tta.decode_state`)."""


class Snapshots:
    """The states below ``url``, which is where `WriteStates` wrote, or a job's checkpoint."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._store = ObjectStore(url)

    @cached_property
    def _packed(self) -> list[tuple[PackReader, dict[str, str]]]:
        """What holds states of many streams: a reader, and the file of each stream."""
        found = []
        if self._store.exists(_ALL):
            reader = PackReader(self._store)
            found.append((reader, dict.fromkeys(reader.streams(_ALL), _ALL)))
        with suppress(JobError):  # no checkpoint
            for log_store in partition_logs(self._url).values():
                commit = CheckpointLog(log_store).latest()
                if commit is not None:
                    found.append((PackReader(log_store, None, commit), dict(commit.states)))
        return found

    def get(self, stream: str) -> bytes | None:
        """The newest state of a stream; ``None`` where there is none."""
        found = [reader.read(files[stream], stream) for reader, files in self._packed if stream in files]
        if self._store.exists(_file(stream)):
            found.append(PackReader(self._store).read(_file(stream), stream))
        return max(found, key=lambda state: newest_image(state) or 0, default=None)

    def streams(self) -> list[str]:
        """Of which there are states."""
        found = {stream for _, files in self._packed for stream in files}
        for name in self._store.names(f"{_EACH}/"):
            found.update(PackReader(self._store).streams(name))
        return sorted(found)

    def write_all(self, states: Iterable[State]) -> str:
        """One file of all, complete before it appears; its name."""
        write_pack(self._store, _ALL, dict(states), {})
        return _ALL

    def write(self, stream: str, state: bytes) -> str:
        """A file of the stream's own."""
        write_pack(self._store, _file(stream), {stream: state}, {})
        return _file(stream)


def _file(stream: str) -> str:
    return f"{_EACH}/{blake2b(stream.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}.pack"


def newest_states(states: Iterable[State]) -> dict[str, bytes]:
    """Of each stream the state that has seen the newest image."""
    found: dict[str, bytes] = {}
    for stream, state in states:
        if stream not in found or (newest_image(state) or 0) > (newest_image(found[stream]) or 0):
            found[stream] = state
    return found


class ReadStates(beam.PTransform):
    """``(stream, bytes)`` to start a bounded `LabelImages` from: of what `WriteStates` wrote to ``url``, or of the
    newest commits of the ``grpo-tta`` job whose checkpoint it is; applied to a pipeline. Fails, when it runs, where
    neither is there."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = place_of(url)

    def expand(self, pbegin: Any) -> Any:
        """Nothing is read here."""
        begun = pbegin | "Place" >> beam.Create([self._url], reshuffle=False)
        return begun | "Read" >> beam.ParDo(_ReadStates()).with_output_types(State)


class _ReadStates(beam.DoFn):
    def process(self, element: str) -> Iterator[State]:
        snapshots = Snapshots(element)
        streams = snapshots.streams()
        if not streams:
            raise JobError(f"{element} holds no states of streams, and is no checkpoint that has any")
        for stream in streams:
            found = snapshots.get(stream)
            assert found is not None
            yield stream, found


class WriteStates(beam.PTransform):
    """``states`` of `LabelImages` below ``url``; `ReadStates` reads them, and ``LabelImages(states=url)``.

    Of a bounded run one file, complete before it appears. Of a continuous one a file for each stream, written anew
    whenever a state of it comes. Gives the files' names.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = place_of(url)

    def expand(self, states: Any) -> Any:
        """One group, or none."""
        if not states.is_bounded:
            return states | "Write" >> beam.MapTuple(Snapshots(self._url).write).with_output_types(str)
        claim_place(states.pipeline, self._url, "states")
        return (
            states
            | "Global" >> beam.WindowInto(GlobalWindows())
            | "Together" >> beam.Map(lambda state: (0, state)).with_output_types(tuple[int, State])
            | "Group" >> beam.GroupByKey()
            | "Write" >> beam.Map(_write_all, self._url).with_output_types(str)
        )


def _write_all(grouped: tuple[int, Iterable[State]], url: str) -> str:
    return Snapshots(url).write_all(newest_states(grouped[1]).items())
