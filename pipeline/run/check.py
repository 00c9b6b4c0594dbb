"""Label a few images of a source without writing anything."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.pipeline.config.job import JobConfig
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.label.labeled import Labeled
from grpo_tta.pipeline.label.labeler import StreamLabeler
from grpo_tta.pipeline.label.load import labeler_of, uri_policy
from grpo_tta.pipeline.label.records import RecordMaker, WindowedRef, bad_record
from grpo_tta.pipeline.run.places import list_job_source, output_stores
from grpo_tta.pipeline.run.runner import check_runner


def check_job(config: JobConfig, images: int) -> tuple[RecordMaker, Labeled]:
    """Label a few of the first images that the source lists, of all its streams; writes nothing.

    Raises as `run_label_job` does.
    """
    job = ResolvedJob.of(config)
    check_runner(config.run)
    uri_policy(config)
    outputs, checkpoint = output_stores(config)
    for store in (*outputs, checkpoint):
        store.check_access()
    with labeler_of(job) as labeler:
        return labeler.make, _labelled(labeler, _sample(list_job_source(config), images))


def _labelled(labeler: StreamLabeler, records: list[ImageRef | BadRecord]) -> Labeled:
    total = Labeled(labeler.initial_state())
    streams: dict[str, list[WindowedRef]] = {}
    for record in records:
        if isinstance(record, BadRecord):
            total.dead_letters.append(bad_record(record))
        else:
            event = WindowedRef(record, (record.event_time, record.event_time))
            streams.setdefault(record.stream, []).append(event)
    for _, events in sorted(streams.items()):
        ordered = sorted(events, key=lambda event: (event.ref.event_time, event.ref.coordinate))
        labeled = labeler.label(ordered, labeler.initial_state())
        total.labels += labeled.labels
        total.dead_letters += labeled.dead_letters
    return total


def _sample(records: Iterator[ImageRef | BadRecord], most: int) -> list[ImageRef | BadRecord]:
    """Of the first thousand the earliest of each stream in turn; what is no event counts as a stream."""
    first = sorted(islice(records, 1000), key=lambda record: (getattr(record, "event_time", 0), record.coordinate))
    ranks: Counter[str] = Counter()
    ranked: list[tuple[int, str, int]] = []
    for index, record in enumerate(first):
        stream = getattr(record, "stream", "")
        ranked.append((ranks[stream], stream, index))
        ranks[stream] += 1
    return [first[index] for _, _, index in sorted(ranked)[:most]]
