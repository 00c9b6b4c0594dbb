"""Write the report of a job: the page, further pages where there are many streams, and the page that asks.

Streams are read, judged and ordered one at a time; pictures are fetched page by page. A page is whole before it has its
name, so that a browser that reloads it meanwhile sees the old one or the new.
"""

import json
import logging
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from grpo_tta.estimate import AccuracyCalibration, packaged_for
from grpo_tta.pipeline.errors import JobError
from grpo_tta.pipeline.report.answers import Answer, questions, summed, with_answers
from grpo_tta.pipeline.report.data import WORDS, Told, cause_of, details_of, inside, overview_of, pictures_of
from grpo_tta.pipeline.report.page import ask_page, report_page
from grpo_tta.pipeline.report.pictures import NEWEST, LabelFiles, Thumbnails, choose, files_of_use
from grpo_tta.pipeline.report.processes import in_processes
from grpo_tta.pipeline.report.read import Outputs, StreamOutputs, read_outputs
from grpo_tta.pipeline.report.sources import source_of
from grpo_tta.pipeline.report.states import judge
from grpo_tta.pipeline.report.windows import StreamWindow, estimator, windows_of
from grpo_tta.pipeline.watch.status import check_written
from grpo_tta.pipeline.watch.streams import STATES, floor_of

_log = logging.getLogger(__name__)
STREAMS_FOLDER = "streams"
ASK_WINDOW = NEWEST
"""Images of a stream, the newest since its last shift, that questions are drawn from."""
ASK_SIDE = 400

_STREAMS_OF_A_PART = 25
"""That a process judges at a time."""

Truth = Callable[[str, Sequence[StreamWindow]], dict[str, Any] | None]
"""A stream's accuracy by a truth file, window by window, where there is one."""


@dataclass(frozen=True)
class ReportRequest:
    """What to report. ``calibration``: None for the packaged one, where it is of these outputs; ``renew``: seconds
    after which the open page loads itself anew, None for never."""

    out: str
    page: Path
    calibration: AccuracyCalibration | None = None
    floor: float | None = None
    since: datetime | timedelta | None = None
    streams_in_page: int = 50
    source: str | None = None
    answers: tuple[Answer, ...] = ()
    renew: int | None = None
    readers: int = 1
    """Processes, at most, that read and judge: see `in_processes`."""


@dataclass(frozen=True)
class Written:
    """What was written: the pages, the first one first, and streams by state; ``shifted``: streams with a shift.
    ``inside``: of ``compared`` windows, which have an estimate and an accuracy by a truth file, those whose accuracy
    lies inside the estimate's interval."""

    pages: list[Path]
    states: dict[str, int]
    images: int
    shifted: int
    inside: int
    compared: int


def write_report(
    request: ReportRequest, truth: Truth | None = None, evaluation: Mapping[str, Any] | None = None
) -> Written:
    """Read the outputs and write the pages.

    Raises `JobError` where there is nothing to report or a file is not what the job wrote, `ConfigurationError` for a
    source that is none, ValueError for a record that is none.
    """
    check_written(request.out)
    outputs = read_outputs(request.out, request.since, request.readers)
    request = replace(request, calibration=request.calibration or packaged_for(outputs.kinds))
    if not outputs.names and not outputs.unplaced:
        raise JobError(
            f"{request.out!r} holds neither monitor/ nor labels/: it is not the --out of a job that has begun"
        )
    if strange := sorted({answer.stream for answer in request.answers}.difference(outputs.names)):
        _log.warning("answers are of streams that the job has not, and count for nothing: %s", ", ".join(strange[:5]))
    streams = _judged(outputs, request, truth)
    common = _common(outputs, request, streams)
    size = request.streams_in_page
    chunks = [streams[at : at + size] for at in range(0, len(streams), size)] or [[]]
    pages = [_place(request.page, number) for number in range(len(chunks))]
    for one, page in ((one, page) for chunk, page in zip(chunks, pages, strict=True) for one in chunk):
        one.row["page"] = page
    album = _Album(outputs, request, streams)
    for number, (page, chunk) in enumerate(zip(pages, chunks, strict=True)):
        details, images = album.details(chunk)
        data = {
            **common,
            "page": page,
            "home": "#" if number == 0 else f"../{request.page.name}#",
            "streams": [one.row for one in (streams if number == 0 else chunk)],
            "details": details,
            "images": images,
            "evaluation": evaluation if number == 0 else None,
        }
        _write(request.page.parent / page, report_page(data))
    states: dict[str, int] = {state: sum(one.row["state"] == state for one in streams) for state in STATES}
    return Written(
        [request.page.parent / page for page in pages],
        states,
        common["images_total"],
        sum(bool(one.light.shifts) for one in streams),
        sum(sum(one.inside) for one in streams),
        sum(len(one.inside) for one in streams),
    )


@dataclass(frozen=True)
class _Judged:
    """A stream's row and its view, deflated, and what its pictures are chosen by; its sums are not held. ``inside``:
    see `inside`."""

    row: dict[str, Any]
    view: bytes
    light: StreamOutputs
    inside: list[bool]


def _place(page: Path, number: int) -> str:
    """Relative to the first page's folder."""
    return page.name if number == 0 else f"{STREAMS_FOLDER}/{page.stem}-{number:03d}.html"


def _write(path: Path, html: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(html)
    os.replace(beside, path)


def _judged(outputs: Outputs, request: ReportRequest, truth: Truth | None) -> list[_Judged]:
    """Every stream, the worst first: by state, then by the estimate, then by the size of the last shift."""
    readers = 1 if truth is not None else request.readers
    parts = [outputs] if readers == 1 else outputs.parts(_STREAMS_OF_A_PART)
    found = [one for some in in_processes(readers, partial(_judge, request, truth), parts) for one in some]
    if not found and not outputs.unplaced:
        raise JobError(f"{request.out} holds no image since {outputs.since}: --since an earlier time")
    return sorted(found, key=lambda one: _worst_first(one.row))


def _judge(request: ReportRequest, truth: Truth | None, outputs: Outputs) -> list[_Judged]:
    estimates = estimator(request.calibration, from_labels=outputs.from_labels)
    floor = floor_of(request.floor, request.calibration)
    calibrated = request.calibration is not None and not outputs.from_labels
    answers = summed(request.answers)
    found = []
    for name in outputs.names:
        stream = outputs.stream(name)
        if not len(stream.stretches):
            continue
        answered = [one for one in answers if one.stream == name]
        windows = windows_of(stream.stretches, stream.drift, estimates)
        windows = windows._replace(newest=with_answers(windows.newest, answered))
        judgement = judge(stream, windows.newest, outputs.now, floor, calibrated=calibrated, out=request.out)
        told = Told(stream, windows, judgement, estimates)
        view = details_of(told, answered, truth(name, windows.shown) if truth else None)
        packed = zlib.compress(json.dumps(view).encode(), 1)
        light = replace(stream, stretches=stream.stretches.part([]))
        found.append(_Judged(overview_of(told), packed, light, inside(view)))
    return found


def _worst_first(row: dict[str, Any]) -> tuple[Any, ...]:
    return STATES.index(row["state"]), row["estimate"].get("value", 2.0), -(row["size"] or 0.0), row["name"]


class _Album:
    """Completes the views of streams by pictures of the page's own; those of all pages are chosen in one pass."""

    def __init__(self, outputs: Outputs, request: ReportRequest, streams: Sequence[_Judged]) -> None:
        self._choices = choose([one.light for one in streams], LabelFiles(request.out), outputs.since)
        self._source = source_of(request.out, request.source)

    def details(self, streams: Sequence[_Judged]) -> tuple[dict[str, Any], list[str]]:
        """By stream, and the page's thumbnails."""
        choices = [self._choices.pop(one.light.name) for one in streams]
        thumbnails = Thumbnails(self._source)
        for choice in choices:
            thumbnails.fetch(choice.all())
        made = {
            one.light.name: json.loads(zlib.decompress(one.view)) | pictures_of(one.light.drift, choice, thumbnails)
            for one, choice in zip(streams, choices, strict=True)
        }
        return made, thumbnails.images


def _common(outputs: Outputs, request: ReportRequest, streams: Sequence[_Judged]) -> dict[str, Any]:
    rows = [one.row for one in streams]
    starts = [row.pop("first") for row in rows]
    return {
        "out": request.out,
        "made": int(datetime.now(UTC).timestamp()),
        "from": min((start for start in starts if start is not None), default=None),
        "to": None if outputs.newest is None else int(outputs.newest.timestamp()),
        "models": sorted({row.pop("model") for row in rows}),
        "images_total": sum(row["images"] for row in rows),
        "dead_total": sum(row["dead"] for row in rows) + sum(cause.count for cause in outputs.unplaced),
        "notes": _notes(outputs, request),
        "dead": [cause_of(cause) for cause in outputs.unplaced],
        "words": list(WORDS.items()),
        "renew": request.renew,
    }


def _notes(outputs: Outputs, request: ReportRequest) -> list[str]:
    """What a reader must know before the figures."""
    notes = []
    if outputs.from_labels:
        notes.append("Made from labels/: these outputs have no monitor/, so no accuracy is estimated.")
    elif request.calibration is None:
        notes.append(
            "No accuracy is estimated: there is no calibration. Make one from at least 500 labelled normal "
            "images: grpo-tta calibrate --accuracy accuracy.json, then grpo-tta report --accuracy accuracy.json."
        )
    floor = floor_of(request.floor, request.calibration)
    if floor is not None and not outputs.from_labels:
        notes.append(f"A stream is degraded where its whole interval lies under {100 * floor:.0f} %.")
    return notes


def write_questions(request: ReportRequest, stream: str, number: int) -> int:
    """Write a page that asks about ``number`` images of a stream; how many it asks about.

    Raises `JobError` for a stream there is not.
    """
    outputs = read_outputs(request.out, request.since, request.readers)
    if stream not in outputs.names:
        some = ", ".join(outputs.names[:10]) + (", ..." if len(outputs.names) > 10 else "")
        raise JobError(f"--stream: there is no stream {stream!r} in {request.out}; there are {some or 'none'}")
    told = outputs.stream(stream)
    shifts = [event.event_time for event in told.drift if event.signal == "shift"]
    found = LabelFiles(request.out).read({stream: files_of_use(told.files)}, outputs.since)
    labels = sorted(found, key=lambda label: (label.event_time, label.coordinate))
    window = [label for label in labels if not shifts or label.event_time > shifts[-1]][-ASK_WINDOW:]
    asked = questions(window or labels[-ASK_WINDOW:], number)
    if not asked:
        raise JobError(f"{request.out}: no label file of stream {stream!r} is there any more")
    thumbnails = Thumbnails(source_of(request.out, request.source), side=ASK_SIDE, most=number)
    thumbnails.fetch(label for _, label in asked)
    shown = [(question, thumbnails.of(label)) for question, label in asked]
    data = {
        "out": request.out,
        "stream": stream,
        "from": asked[0][0].window_start,
        "questions": [
            {
                "question": asdict(question),
                "image": made if isinstance(made, int) else None,
                "missing": made if isinstance(made, str) else None,
            }
            for question, made in shown
        ],
        "images": thumbnails.images,
    }
    _write(request.page, ask_page(data))
    return len(asked)
