"""Which images of a stream are worth looking at, and their thumbnails.

Images are chosen from the label files that can hold them: those of slices around a shift first, then the newest, up to
`MOST_LABELS` labels a stream; of a small job that is all of them. A thumbnail is fetched and decoded by the job's own
rules (`adapters.storage.fetch`, `adapters.images`); an image that cannot be had has a reason in its place.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from heapq import nlargest, nsmallest

from PIL import Image

from grpo_tta.adapters.events import ImageRef
from grpo_tta.adapters.images import CanvasSpec, ImageError
from grpo_tta.adapters.storage.fetch import PermanentFetchError, TransientFetchError
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import read_file
from grpo_tta.pipeline.report.read import LABELS, StreamOutputs, best_of, stem_of
from grpo_tta.pipeline.report.sources import Source
from grpo_tta.schemas import DriftEvent, LabeledImage

AROUND = 8
"""Pictures before a shift, and after it."""
NOTICED_AFTER = 96
"""Images that the guard needs at least to notice a shift (three probes): so many before its alarm show either side."""
SPREAD = 200
"""Images that the pictures of one side are spread over."""
SHOWN_DRIFTS = 3
"""Shifts of a stream, the newest, that get pictures."""
UNSURE = 8
MOST_LABELS = 200_000
MOST_PICTURES = 1_500
"""Thumbnails of a page, some two kilobytes each."""
SIDE = 96
_READERS = 8
_QUALITY = 70
_WHY = {
    "NotFound": "the image is not there any more",
    "Changed": "the image was replaced since",
    "ForbiddenByPolicy": "not below the source: --source",
}


@dataclass
class Choice:
    """Images of one stream, as labels: around each shift (by its place among the drift events), the least sure,
    and those where both encoders are surest of different labels."""

    before: dict[int, list[LabeledImage]] = field(default_factory=dict)
    before_text: dict[int, str] = field(default_factory=dict)
    after: dict[int, list[LabeledImage]] = field(default_factory=dict)
    unsure: list[LabeledImage] = field(default_factory=list)
    disagree: list[LabeledImage] = field(default_factory=list)

    def all(self) -> Iterator[LabeledImage]:
        """Every one of them; an image may come twice."""
        for labels in (*self.before.values(), *self.after.values(), self.unsure, self.disagree):
            yield from labels


class LabelFiles:
    """The label files of a job by their stems."""

    def __init__(self, url: str) -> None:
        self._store = ObjectStore(url)
        self._names = {stem_of(name): name for name in self._store.names(f"{LABELS}/")}

    def read(self, stems: Iterable[str], stream: str, most: int = MOST_LABELS) -> Iterator[LabeledImage]:
        """The stream's labels in files of these stems, until so many were read; a file that is gone is passed over."""
        read = 0
        for stem in stems:
            if (name := self._names.get(stem)) is None:
                continue
            if read >= most:
                return
            for label in read_file(self._store, name, LabeledImage):
                if label.stream == stream:
                    read += 1
                    yield label


def files_by_use(stream: StreamOutputs, times: Sequence[datetime]) -> list[str]:
    """Stems of label files: those nearest to one of ``times``, three for each, then the newest first."""
    order: list[str] = []
    for time in times:
        order += nsmallest(3, stream.files, key=lambda stem: _distance(stream.files[stem], time))
    order += sorted(stream.files, key=lambda stem: stream.files[stem][1], reverse=True)
    return list(dict.fromkeys(order))


def _distance(stretch: tuple[datetime, datetime], time: datetime) -> float:
    first, last = stretch
    return max((first - time).total_seconds(), (time - last).total_seconds(), 0.0)


def shown_shifts(drift: Sequence[DriftEvent]) -> dict[int, DriftEvent]:
    """Those that get pictures, by their place among a stream's drift events."""
    shifts = [(at, event) for at, event in enumerate(drift) if event.signal == "shift"]
    return dict(shifts[-SHOWN_DRIFTS:])


def choose(stream: StreamOutputs, files: LabelFiles, since: datetime | None) -> Choice:
    """The images of a stream that are worth looking at."""
    shifts = shown_shifts(stream.drift)
    found = files.read(files_by_use(stream, [event.event_time for event in shifts.values()]), stream.name)
    labels = sorted((label for label in found if since is None or label.event_time >= since), key=_order)
    made = Choice()
    for at, event in shifts.items():
        before = [label for label in labels if label.event_time < event.event_time]
        after = [label for label in labels if label.event_time >= event.event_time]
        earlier = before[-NOTICED_AFTER - SPREAD : -NOTICED_AFTER]
        made.before[at] = _spread(earlier or before)
        made.before_text[at] = (
            f"{NOTICED_AFTER} to {NOTICED_AFTER + len(earlier)} images before the alarm"
            if earlier
            else "the stream's first images, which may be shifted already"
        )
        made.after[at] = _spread(after[:SPREAD])
    made.unsure = nsmallest(UNSURE, labels, key=lambda label: (label.probability, label.coordinate))
    differ = (label for label in labels if label.frozen_label not in (None, best_of(label)))
    made.disagree = nlargest(UNSURE, differ, key=lambda label: (_both_sure(label), label.coordinate))
    return made


def _spread(labels: Sequence[LabeledImage]) -> list[LabeledImage]:
    """Some, evenly from the first to the last."""
    if len(labels) <= AROUND:
        return list(labels)
    return [labels[at * (len(labels) - 1) // (AROUND - 1)] for at in range(AROUND)]


def _order(label: LabeledImage) -> tuple[datetime, str]:
    return label.event_time, label.coordinate


def _both_sure(label: LabeledImage) -> float:
    return min(label.probability, label.frozen_probability or 0.0)


@dataclass
class Thumbnails:
    """Small pictures of labels, fetched once each: WebP in base64, or why there is none."""

    source: Source
    side: int = SIDE
    most: int = MOST_PICTURES
    images: list[str] = field(default_factory=list)
    _made: dict[str, int | str] = field(default_factory=dict)

    def fetch(self, labels: Iterable[LabeledImage]) -> None:
        """Make those of ``labels`` that are not there yet."""
        wanted = {label.coordinate: label for label in labels if label.coordinate not in self._made}
        refs = self.source.refs(list(wanted.values())[: max(0, self.most - len(self.images))])
        with ThreadPoolExecutor(_READERS) as pool:
            for coordinate, made in zip(refs, pool.map(self._one, refs.values()), strict=True):
                if isinstance(made, bytes):
                    self._made[coordinate] = len(self.images)
                    self.images.append(base64.b64encode(made).decode())
                else:
                    self._made[coordinate] = made

    def of(self, label: LabeledImage) -> int | str:
        """Index into ``images``, or why there is none."""
        return self._made.get(label.coordinate, "left out: the page has many pictures")

    def _one(self, ref: ImageRef | str) -> bytes | str:
        if isinstance(ref, str):
            return ref
        try:
            canvas = self.source.canvas(ref, CanvasSpec(self.side, self.side))
        except (PermanentFetchError, TransientFetchError, ImageError) as error:
            return _WHY.get(type(error).__name__, type(error).__name__)
        file = io.BytesIO()
        Image.fromarray(canvas.transpose(1, 2, 0)).save(file, "WEBP", quality=_QUALITY, method=4)
        return file.getvalue()
