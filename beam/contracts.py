"""What a source and a sink of one's own owe `LabelImages`, as tests that each inherits; see `grpo_tta.contracts`."""

from datetime import UTC, datetime
from typing import Any

import apache_beam as beam

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.beam.events import to_ref
from grpo_tta.schemas import DeadLetter, LabeledImage, WireModel

_RUNNER = "FnApiRunner"
"""In this process, so that what is read can be looked at."""
_found: list[ImageRef | BadRecord] = []


def _keep(event: Any) -> None:
    _found.append(to_ref(event))


class SourceContract:
    """Inherit it, and say how the source is made and how many events it has."""

    events: int

    def make(self) -> Any:
        """A transform of a pipeline, which gives what `LabelImages` takes; the same events every time."""
        raise NotImplementedError

    def _read(self) -> list[ImageRef | BadRecord]:
        _found.clear()
        with beam.Pipeline(runner=_RUNNER) as pipeline:
            _ = pipeline | "Source" >> self.make() | beam.Map(_keep)
        return list(_found)

    def test_every_event_is_one_that_can_be_labelled(self) -> None:
        """Each comes once: coordinates name events in every record about them."""
        refs = self._read()
        assert len(refs) == self.events
        assert all(isinstance(ref, ImageRef) for ref in refs), [ref for ref in refs if not isinstance(ref, ImageRef)]
        assert len({ref.coordinate for ref in refs}) == self.events

    def test_a_second_reading_gives_the_same(self) -> None:
        """A bundle that runs again must not name its events anew."""
        assert sorted(self._read()) == sorted(self._read())


class SinkContract:
    """Inherit it, and say how the sink is made and what can be read back of it."""

    def make(self) -> Any:
        """A transform of `LabelImages`' records, into one place."""
        raise NotImplementedError

    def written(self) -> list[str]:
        """Coordinates of the labels that lie there, one a label."""
        raise NotImplementedError

    def _write(self, labels: int) -> None:
        """As `LabelImages` gives them: records of their own kinds, here together."""
        records: dict[type[WireModel], list[WireModel]] = {
            LabeledImage: [_label(number) for number in range(labels)],
            DeadLetter: [DeadLetter(coordinate="bad", stage="fetch", error_class="NotFound", error_message="gone")],
        }
        with beam.Pipeline(runner=_RUNNER) as pipeline:
            kinds = [
                pipeline | kind.__name__ >> beam.Create(some, reshuffle=False).with_output_types(kind)
                for kind, some in records.items()
            ]
            _ = kinds | beam.Flatten() | "Sink" >> self.make()

    def test_every_label_lies_there_once(self) -> None:
        """However often its bundle runs."""
        for _ in range(2):
            self._write(5)
            assert sorted(self.written()) == [f"coordinate {number}" for number in range(5)]

    def test_without_a_label_there_is_none(self) -> None:
        """As of a source that holds nothing readable."""
        self._write(0)
        assert self.written() == []


def _label(number: int) -> LabeledImage:
    time = datetime(2026, 1, 1, 6, 0, number, tzinfo=UTC)
    return LabeledImage(
        coordinate=f"coordinate {number}",
        id=f"{number}.jpg",
        stream="door",
        event_time=time,
        window_start=time,
        window_end=time,
        label="cat",
        probability=0.75,
        top_k=[],
        model_fingerprint="model",
        method="zero-shot",
        update_count=0,
    )
