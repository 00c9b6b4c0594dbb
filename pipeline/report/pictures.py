"""Which images of a stream are worth looking at, and their thumbnails.

Images are chosen from the label files around a stream's shifts, from those that hold its least sure images and from
the newest ones, at most `MOST_FILES` a stream; of a small job that is all of them. One pass over the files serves all
streams. A thumbnail is fetched and decoded by the job's own rules (`adapters.storage.fetch`, `adapters.images`); an
image that cannot be had has a reason in its place.
"""

import base64
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from grpo_tta.adapters.events import ImageRef
from grpo_tta.adapters.images import CanvasSpec, ImageError
from grpo_tta.adapters.storage.fetch import PermanentFetchError, TransientFetchError
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import read_file
from grpo_tta.pipeline.report.read import LABELS, StreamOutputs, best_of
from grpo_tta.pipeline.report.sources import Source
from grpo_tta.pipeline.report.stretches import LEAST_SURE, LabelFile
from grpo_tta.pipeline.report.sums import stem_of
from grpo_tta.schemas import DriftEvent, LabeledImage

AROUND = 8
"""Pictures before a shift, and after it."""
NOTICED_AFTER = 96
"""Images that the guard needs at least to notice a shift (three probes): so many before its alarm show either side."""
SPREAD = 200
"""Images from the alarm on that the pictures after it are spread over."""
_PLACES = 256
"""Of the time before a shift; from each an image is held."""
SHOWN_DRIFTS = 3
"""Shifts of a stream, the newest, that get pictures."""
DISAGREE = 8
NEWEST = 500
"""Images of a stream, the newest, that are read whatever happened."""
MOST_FILES = 100
"""Label files that are read for one stream."""
FAR_STREAMS = 50
"""The worst streams, of which images are looked for in all label files. Of thousands that would be to read them all."""
MOST_PICTURES = 1_500
"""Thumbnails of a page, some two kilobytes each."""
SIDE = 96
Item = TypeVar("Item")
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


class Span(NamedTuple):
    """From the shift before, or a stream's first image, to a shift's alarm."""

    begin: datetime
    shift: datetime
    first: bool
    """There is no shift before."""


class LabelFiles:
    """The label files of a job by their stems."""

    def __init__(self, url: str) -> None:
        self._store = ObjectStore(url)
        self._names = {stem_of(name): name for name in self._store.names(f"{LABELS}/")}

    def read(self, stems: Mapping[str, Iterable[str]], since: datetime | None = None) -> Iterator[LabeledImage]:
        """Labels since ``since`` of some streams, each in files of its ``stems``. A file is read once for all of them;
        one that is gone is passed over."""
        streams: defaultdict[str, set[str]] = defaultdict(set)
        for stream, own in stems.items():
            for stem in own:
                streams[stem].add(stream)
        for stem in sorted(streams.keys() & self._names.keys()):
            for label in read_file(self._store, self._names[stem], LabeledImage, streams[stem]):
                if since is None or label.event_time >= since:
                    yield label


def files_of_use(files: Mapping[str, LabelFile], shifts: Sequence[datetime] = (), far: Iterable[str] = ()) -> list[str]:
    """Stems of the label files that hold the images around ``shifts`` and the newest ones, and ``far`` ones. First come
    those of a stretch with a shift, then ``far``, then the newest."""
    ordered = sorted(files.items(), key=lambda item: (item[1].end, item[0]), reverse=True)
    met = [stem for stem, file in ordered if any(file.start <= time < file.end for time in shifts)]
    use = set(_until(ordered, NEWEST))
    for time in shifts:
        use |= set(_until([one for one in ordered if one[1].end <= time], NOTICED_AFTER + SPREAD))
        use |= set(_until([one for one in reversed(ordered) if one[1].start > time], SPREAD))
    return list(dict.fromkeys([*met, *far, *(stem for stem, _ in ordered if stem in use)]))[:MOST_FILES]


def _far(stream: StreamOutputs, spans: Iterable[Span]) -> Iterator[str]:
    """Stems of the files that hold some images of ``spans``, evenly over the time, and the least sure ones."""
    ordered = sorted(stream.files.items(), key=lambda item: (item[1].end, item[0]))
    for begin, shift, _ in spans:
        yield from _spread([stem for stem, file in ordered if file.start < shift and begin < file.end])
    yield from stream.least_sure


def _until(files: Iterable[tuple[str, LabelFile]], images: int) -> Iterator[str]:
    """Their stems, until they hold so many images."""
    for stem, file in files:
        if images <= 0:
            return
        images -= file.images
        yield stem


def spans_of(stream: StreamOutputs) -> dict[int, Span]:
    """Of the shifts that get pictures, by their place among the drift events."""
    found, first = {}, min((file.start for file in stream.files.values()), default=None)
    times = [event.event_time for event in stream.drift if event.signal == "shift"]
    for at, event in shown_shifts(stream.drift).items():
        before = [time for time in times if time < event.event_time]
        begin = before[-1] if before else first or event.event_time
        found[at] = Span(begin, event.event_time, not before)
    return found


def shown_shifts(drift: Sequence[DriftEvent]) -> dict[int, DriftEvent]:
    """Those that get pictures, by their place among a stream's drift events."""
    shifts = [(at, event) for at, event in enumerate(drift) if event.signal == "shift"]
    return dict(shifts[-SHOWN_DRIFTS:])


def choose(streams: Sequence[StreamOutputs], files: LabelFiles, since: datetime | None) -> dict[str, Choice]:
    """The images of each stream that are worth looking at. ``streams``: the worst first."""
    choosers = {stream.name: _Chooser(stream, far=at < FAR_STREAMS) for at, stream in enumerate(streams)}
    for label in files.read({name: one.stems for name, one in choosers.items()}, since):
        choosers[label.stream].add(label)
    return {name: one.choice() for name, one in choosers.items()}


class _First:
    """The first ``most`` of many labels in some order, or the last ones, of which no more than twice as many are
    held."""

    def __init__(self, most: int, order: Callable[[LabeledImage], Any], *, last: bool = False) -> None:
        self._most, self._order, self._last = most, order, last
        self._held: list[LabeledImage] = []

    def add(self, label: LabeledImage) -> None:
        self._held.append(label)
        if len(self._held) >= 2 * self._most:
            self._held = self.found()

    def found(self) -> list[LabeledImage]:
        """In order, from the end that is asked for."""
        return sorted(self._held, key=self._order, reverse=self._last)[: self._most]


class _Before:
    """Of the labels before a shift: the last ones, which may be of either side, and some evenly over the time."""

    def __init__(self, span: Span, *, far: bool) -> None:
        self._span, self._far = span, far
        self._last = _First(NOTICED_AFTER, _order, last=True)
        self._places: dict[int, LabeledImage] = {}

    def add(self, label: LabeledImage) -> None:
        begin, shift, _ = self._span
        if not begin <= label.event_time < shift:
            return
        self._last.add(label)
        place = _PLACES * (label.event_time - begin) // (shift - begin)
        self._places[place] = min(self._places.get(place, label), label, key=_order)

    def found(self) -> tuple[list[LabeledImage], str]:
        """In order of time, without the last ones if there are others; and from where to where they are."""
        held = [self._places[place] for place in sorted(self._places)]
        last = self._last.found()
        sure = [label for label in held if _order(label) < _order(last[-1])] if len(last) == NOTICED_AFTER else []
        begin = "since the first image" if self._span.first else "since the shift before"
        begin = begin if self._far else f"the last {NOTICED_AFTER + SPREAD} images"
        until = f"up to {NOTICED_AFTER} images before the alarm" if sure else "which may be shifted already"
        return _evenly(sure or held), f"{begin}, {until}"


class _Chooser:
    """Chooses while a stream's labels come, in any order."""

    def __init__(self, stream: StreamOutputs, *, far: bool) -> None:
        spans = spans_of(stream)
        self._shifts = {at: (span.shift, _Before(span, far=far), _First(SPREAD, _order)) for at, span in spans.items()}
        self._unsure = _First(LEAST_SURE, lambda label: (label.probability, label.coordinate))
        self._disagree = _First(DISAGREE, lambda label: (_both_sure(label), label.coordinate), last=True)
        shifts = [span.shift for span in spans.values()]
        self.stems = files_of_use(stream.files, shifts, _far(stream, spans.values()) if far else ())

    def add(self, label: LabeledImage) -> None:
        for time, before, after in self._shifts.values():
            (before if label.event_time < time else after).add(label)
        self._unsure.add(label)
        if label.frozen_label not in (None, best_of(label)):
            self._disagree.add(label)

    def choice(self) -> Choice:
        made = Choice(unsure=self._unsure.found(), disagree=self._disagree.found())
        for at, (_, before, after) in self._shifts.items():
            made.before[at], made.before_text[at] = before.found()
            made.after[at] = _spread(after.found())
        return made


def _spread(items: Sequence[Item]) -> list[Item]:
    """Some, evenly from the first to the last."""
    if len(items) <= AROUND:
        return list(items)
    return [items[at * (len(items) - 1) // (AROUND - 1)] for at in range(AROUND)]


def _evenly(labels: Sequence[LabeledImage]) -> list[LabeledImage]:
    """Some, evenly over the time from the first to the last; fewer where images lie closely together."""
    if len(labels) <= AROUND:
        return list(labels)
    first, last = labels[0].event_time, labels[-1].event_time
    times = [first + (last - first) * at / (AROUND - 1) for at in range(AROUND)]
    found = (min(labels, key=lambda label: abs(label.event_time - time)) for time in times)
    return list({label.coordinate: label for label in found}.values())


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
