"""The one file to read: the events of a slice in, records, states and counts out.

    listing rows -> keyed by stream -> grouped, sorted, cut into windows and stretches -> LabelStream (stateful)
                 -> files of labels, adaptation log, drift events, dead letters -> one packed file of states

References travel through the shuffles; pixels exist only inside `LabelStream`. The packed file waits for the other
files: it is step 3 of the slice's order of writing (see `pipeline.driver`).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from adapters.events import BadRecord, ImageRef
from adapters.storage.listing import Listing
from adapters.storage.objects import ObjectStore
from adapters.storage.sink import FORMATS, RecordFiles
from pipeline.coders import StreamBatch
from pipeline.config import JobConfig, parse_duration
from pipeline.driver import PARTITION
from pipeline.labeling import COUNTERS, STATES, LabelStream
from pipeline.records import WindowedRef, bad_record
from pipeline.state_packs import PackReader, pack_name, write_pack
from pipeline.windows import Windows
from schemas import AdaptationLog, Commit, Counters, DeadLetter, DriftEvent, LabeledImage, Plan, SliceRange, WireModel

FOLDERS: dict[str, type[WireModel]] = {
    "labels": LabeledImage,
    "adaptation": AdaptationLog,
    "drift": DriftEvent,
    "dead_letters": DeadLetter,
}
_FOLDER_OF = {model: folder for folder, model in FOLDERS.items()}
_BAD = "bad"
STRETCH = 512
"""Events of a stream in one element: images are read ahead within one, states pass the runner once each."""


class ReadListing(beam.DoFn):
    """A range of positions -> ``(stream, ImageRef)``; rows that are no events go to the tagged output ``bad``."""

    def __init__(self, checkpoint_url: str, clock: int, max_future: int) -> None:
        self._url = checkpoint_url
        self._cap = clock + max_future

    def process(self, span: SliceRange) -> Iterator[Any]:
        """Read the rows of ``span``; times too far ahead of the plan's clock are capped."""
        listing = Listing.open(ObjectStore(self._url))
        if listing is None:
            raise FileNotFoundError(f"{self._url} holds no listing")
        for record in listing.read(span.start, span.stop):
            if isinstance(record, BadRecord):
                yield beam.pvalue.TaggedOutput(_BAD, bad_record(record))
            elif record.event_time > self._cap:
                yield record.stream, record._replace(event_time=self._cap, time_capped=True)
            else:
                yield record.stream, record


class CutStretches(beam.DoFn):
    """``(stream, refs)`` -> ``(stream, StreamBatch)`` in order of (event time, coordinate), with windows assigned."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows

    def process(self, element: tuple[str, Iterable[ImageRef]]) -> Iterator[tuple[str, StreamBatch]]:
        """All of a stream's events of the slice at once."""
        stream, refs = element
        ordered = sorted(refs, key=lambda ref: (ref.event_time, ref.coordinate))
        spans = self._windows.assign([ref.event_time for ref in ordered])
        events = [WindowedRef(ref, span) for ref, span in zip(ordered, spans, strict=True)]
        for index, start in enumerate(range(0, len(events), STRETCH)):
            stop = start + STRETCH
            yield stream, StreamBatch(index, stop >= len(events), tuple(events[start:stop]))


class WriteRecords(beam.DoFn):
    """``(folder, encoded records)`` -> one complete file, named by partition and start position."""

    def __init__(self, config: JobConfig, stem: str) -> None:
        self._config = config
        self._stem = stem

    def process(self, element: tuple[str, Iterable[bytes]]) -> Iterator[str]:
        """The file's name."""
        folder, encoded = element
        records = [FOLDERS[folder].model_validate_json(data) for data in encoded]
        files = RecordFiles(ObjectStore(self._config.output.url), folder, self._config.output.format)
        name = files.write(self._stem, records)
        if name is not None:
            yield name


@dataclass(frozen=True)
class WriteStates:
    """Step 3: the slice's changed states, those that an old file would hold alive, and the slice's record.

    What an earlier attempt at the slice left, and this one did not write, goes before: a file that has vanished since,
    or other settings, give other records.
    """

    config: JobConfig
    plan: Plan
    commit: Commit | None
    fault_point: Callable[[str], None]

    def __call__(self, _: None, states: list[tuple[str, bytes]], counters: list[Counters], files: list[str]) -> None:
        """Write the pack. ``files`` is what step 2 wrote: an input, so that it comes before."""
        output = ObjectStore(self.config.output.url)
        for name in leftovers(self.plan, files):
            output.delete(name)
        self.fault_point("after:2")
        store = ObjectStore(self.config.checkpoint_url)
        changed = dict(states)
        if self.commit:
            oldest = self.plan.sequence - self.config.checkpoint.keep + 1
            changed |= PackReader(store).carried(self.commit.states, changed, oldest)
        total = Counters()
        for part in counters:
            total = total.plus(part)
        record = {"counters": total.model_dump(mode="json"), "files": sorted(files)}
        self.fault_point("before:3")
        write_pack(store, pack_name(self.plan), changed, record)
        self.fault_point("after:3")


def slice_stem(plan: Plan) -> str:
    """Of the output files of a slice."""
    (span,) = plan.ranges
    return f"{span.partition}-{span.start:012d}"


def leftovers(plan: Plan, written: Iterable[str]) -> list[str]:
    """Names of output files that an attempt at this slice could have written, but for those in ``written``."""
    possible = {f"{folder}/{slice_stem(plan)}.{ending}" for folder in FOLDERS for ending in FORMATS}
    return sorted(possible.difference(written))


def build(
    pipeline: beam.Pipeline,
    config: JobConfig,
    plan: Plan,
    commit: Commit | None,
    fault_point: Callable[[str], None],
) -> None:
    """Add one slice's graph to ``pipeline``. Nothing is connected here."""
    clock = round(plan.clock.timestamp() * 1e6)
    spans = [span for span in plan.ranges if span.partition == PARTITION]
    read = (
        pipeline
        | "Ranges" >> beam.Create(spans)
        | "ReadListing"
        >> beam.ParDo(ReadListing(config.checkpoint_url, clock, parse_duration(config.event_time.max_future)))
        .with_outputs(_BAD, main="refs")
        .with_output_types(tuple[str, ImageRef])
    )
    labelled = (
        read.refs
        | "ByStream" >> beam.GroupByKey()
        | "CutStretches"
        >> beam.ParDo(CutStretches(config.event_time.windows())).with_output_types(tuple[str, StreamBatch])
        | "GlobalWindow" >> beam.WindowInto(GlobalWindows())
        | "LabelStream" >> beam.ParDo(LabelStream(config, commit)).with_outputs(STATES, COUNTERS, main="records")
    )
    files = (
        (labelled.records, read[_BAD])
        | "Records" >> beam.Flatten()
        | "ByKind" >> beam.Map(_encoded).with_output_types(tuple[str, bytes])
        | "GroupKinds" >> beam.GroupByKey()
        | "WriteRecords" >> beam.ParDo(WriteRecords(config, slice_stem(plan))).with_output_types(str)
    )
    bad = read[_BAD] | "CountBad" >> beam.Map(lambda _: Counters(events=1, dead_letters=1))
    counters = (labelled[COUNTERS], bad) | "Counters" >> beam.Flatten()
    _ = (
        pipeline
        | "Once" >> beam.Create([None])
        | "WriteStates"
        >> beam.Map(
            WriteStates(config, plan, commit, fault_point),
            beam.pvalue.AsList(labelled[STATES]),
            beam.pvalue.AsList(counters),
            beam.pvalue.AsList(files),
        )
    )


def _encoded(record: WireModel) -> tuple[str, bytes]:
    return _FOLDER_OF[type(record)], record.model_dump_json(exclude_none=True).encode()
