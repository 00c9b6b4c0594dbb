"""`read_sums`: the records of ``monitor/``, by stream, read by one process or by several.

To check and pack a record takes a fifth of a millisecond, and a fleet writes hundreds of thousands: where there is much
to read, some processes read runs of neighbouring files, and what they have packed is joined in the order of the files.
The sums are the same.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import read_file
from grpo_tta.pipeline.report.processes import in_processes
from grpo_tta.pipeline.report.stretches import Names, Packed
from grpo_tta.schemas.monitor import MonitorRecord

MONITOR = "monitor"
_BYTES_OF_A_RUN = 32 * 2**20
"""So much takes a reader longer than its start, and little memory once it is packed."""


@dataclass
class Sums:
    """Records by stream. ``newest``: the end of the last stretch with an image, of all streams, in microseconds.
    ``unplaced``: dead letters that know no stream, by cause."""

    names: Names = field(default_factory=Names)
    streams: dict[str, Packed] = field(default_factory=dict)
    newest: int | None = None
    unplaced: Counter[str] = field(default_factory=Counter)

    def add(self, stem: str, record: MonitorRecord) -> None:
        """One of the file of this stem."""
        if record.stream is None or record.bucket_start is None:
            self.unplaced.update(record.dead_letters)
            return
        end = self._packed(record.stream).add(stem, record)
        if record.n:
            self._ends(end)

    def absorb(self, other: "Sums") -> None:
        """The records of ``other`` behind these; it is used up."""
        numbers = self.names.numbers_of(other.names)
        for stream, packed in other.streams.items():
            self._packed(stream).absorb(packed, numbers)
        self.unplaced.update(other.unplaced)
        if other.newest is not None:
            self._ends(other.newest)

    def _packed(self, stream: str) -> Packed:
        found = self.streams.get(stream)
        if found is None:
            found = self.streams[stream] = Packed(self.names)
        return found

    def _ends(self, end: int) -> None:
        self.newest = end if self.newest is None else max(self.newest, end)


def read_sums(store: ObjectStore, readers: int) -> Sums:
    """All of ``monitor/``, by at most so many processes. Raises ValueError as `read_file` does."""
    names = store.names(f"{MONITOR}/")
    runs = _runs(names, _bytes(store, names) // _BYTES_OF_A_RUN if readers > 1 else 1)
    sums = Sums()
    for part in in_processes(readers, partial(_read, store.url), runs or [names]):
        sums.absorb(part)
    return sums


def _bytes(store: ObjectStore, names: Sequence[str]) -> int:
    """About so many there are: some files are asked."""
    some = names[:: max(len(names) // 8, 1)]
    return len(names) * sum(map(store.size, some)) // max(len(some), 1)


def _runs(names: Sequence[str], count: int) -> list[Sequence[str]]:
    """Neighbours, in so many runs or in fewer."""
    cuts = [at * len(names) // max(count, 1) for at in range(count + 1)]
    return [names[first:stop] for first, stop in pairwise(cuts) if stop > first]


def _read(url: str, names: Iterable[str]) -> Sums:
    store, sums = ObjectStore(url), Sums()
    for name in names:
        for record in read_file(store, name, MonitorRecord):
            sums.add(stem_of(name), record)
    return sums


def stem_of(name: str) -> str:
    """``labels/2026-01-31/images-0-000000002000.jsonl`` -> ``2026-01-31/images-0-000000002000``."""
    return name.partition("/")[2].rpartition(".")[0]
