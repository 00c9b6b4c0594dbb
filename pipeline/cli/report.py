"""``grpo-tta report``: the page about a job's streams, and the page that asks about one."""

import argparse
import logging
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_tta.pipeline.cli.console import check_replaceable
from grpo_tta.pipeline.errors import ConfigurationError, JobError

if TYPE_CHECKING:
    from grpo_tta.estimate import AccuracyCalibration
    from grpo_tta.pipeline.report.report import ReportRequest, Written

RENEW_SECONDS = 30
_log = logging.getLogger(__name__)


def add_report_flags(parser: argparse.ArgumentParser) -> None:
    """All flags of the command."""
    add_page_flags(parser, page_default="OUT/report.html")
    parser.add_argument("--out", required=True, metavar="URL", help="the --out of a job: a folder or bucket")
    parser.add_argument("--answers", metavar="FILE", help="answers.jsonl that an asking page saved")
    parser.add_argument(
        "--ask", type=int, metavar="N", help="write a page that asks about N images of --stream instead"
    )
    parser.add_argument("--stream", metavar="NAME", help="the stream to ask about")
    parser.add_argument(
        "--watch", action="store_true",
        help=f"write the page anew every {RENEW_SECONDS} s until the job has ended (a live one does not) or Ctrl-C",
    )  # fmt: skip


def add_page_flags(parser: argparse.ArgumentParser, *, page_default: str) -> None:
    """Those of every command that writes the page."""
    parser.add_argument("--page", metavar="FILE", help=f"the HTML file to write (default: {page_default})")
    parser.add_argument(
        "--accuracy",
        metavar="FILE",
        help="accuracy calibration (default: the packaged one, for labels of its model, method and settings)",
    )
    parser.add_argument(
        "--floor", type=float, metavar="P", help="estimated accuracy under which a stream is degraded, 0 to 1 "
        "(default: 0.1 under that on normal images)",
    )  # fmt: skip
    parser.add_argument("--since", metavar="T", help="only what came since: a time, or 24h before the newest image")
    parser.add_argument(
        "--streams-in-page", type=int, default=50, metavar="N",
        help="the worst N get their view in the page, the others in pages under streams/ (default: 50)",
    )  # fmt: skip
    parser.add_argument("--source", metavar="URL", help="where the pictures lie (default: the job's own source)")


def report(flags: argparse.Namespace, beam_options: list[str]) -> int:
    """Write the page, or the questions."""
    from grpo_tta.pipeline.report.report import write_report

    request = request_of(flags, flags.out)
    if flags.ask is not None:
        return _ask(flags, request)
    if flags.stream is not None:
        raise ConfigurationError("--stream: only with --ask N; the page has all streams")
    if not flags.watch:
        print_written(write_report(request))
        return 0
    return _watch(request)


def request_of(flags: argparse.Namespace, out: str) -> "ReportRequest":
    """Checked flags; raises `ConfigurationError`."""
    from grpo_tta.pipeline.config.values import is_kafka
    from grpo_tta.pipeline.report.answers import read_answers
    from grpo_tta.pipeline.report.processes import usable_processors
    from grpo_tta.pipeline.report.report import ReportRequest

    if is_kafka(out):
        raise ConfigurationError(
            f"--out: a report reads a folder or bucket, not {out}: give the job one as a second --out"
        )
    if flags.floor is not None and not 0 <= flags.floor <= 1:
        raise ConfigurationError(f"--floor: a share from 0 to 1, got {flags.floor:g}")
    if flags.streams_in_page < 1:
        raise ConfigurationError(f"--streams-in-page: at least 1, got {flags.streams_in_page}")
    answers = getattr(flags, "answers", None)
    page = Path(flags.page) if flags.page else _beside(out, "report.html")
    check_replaceable("--page", page)
    return ReportRequest(
        out=out,
        page=page,
        calibration=_calibration(flags.accuracy),
        floor=flags.floor,
        since=_since(flags.since),
        streams_in_page=flags.streams_in_page,
        source=flags.source,
        answers=tuple(read_answers(answers)) if answers else (),
        readers=usable_processors(),
    )


def _beside(out: str, name: str) -> Path:
    """In a local folder of outputs; of a bucket, here."""
    from grpo_tta.adapters.storage.filesystems import local_path

    folder = local_path(out)
    return Path(name) if folder is None else Path(folder) / name


def _calibration(path: str | None) -> "AccuracyCalibration | None":
    from grpo_tta.estimate import AccuracyCalibration

    if path is None:
        return None
    try:
        return AccuracyCalibration.load(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--accuracy: {error}") from error


def _since(text: str | None) -> datetime | timedelta | None:
    from grpo_tta.pipeline.config.values import parse_duration
    from grpo_tta.schemas.rfc3339 import EXAMPLE, parse_rfc3339

    if text is None:
        return None
    try:
        return timedelta(microseconds=parse_duration(text))
    except ValueError:
        pass
    try:
        return parse_rfc3339(text)
    except ValueError:
        raise ConfigurationError(f"--since: a time like {EXAMPLE}, or a duration like 24h, got {text!r}") from None


def _ask(flags: argparse.Namespace, request: "ReportRequest") -> int:
    from grpo_tta.pipeline.report.report import write_questions

    if flags.ask < 1:
        raise ConfigurationError(f"--ask: at least 1 image, got {flags.ask}")
    if flags.stream is None:
        raise ConfigurationError("--ask: needs --stream NAME, the stream to ask about")
    if flags.page is None:
        request = replace(request, page=request.page.with_name("ask.html"))
    asked = write_questions(request, flags.stream, flags.ask)
    print(f"{asked} questions about {flags.stream} in {request.page}")
    print(f"then: grpo-tta report --out {request.out} --answers answers.jsonl")
    return 0


def _watch(request: "ReportRequest") -> int:
    """Until the job has written that it is finished, or Ctrl-C; a report that fails is tried again with the next."""
    from grpo_tta.adapters.storage.objects import ObjectStore
    from grpo_tta.pipeline.report.read import finished
    from grpo_tta.pipeline.report.report import write_report

    store = ObjectStore(request.out)
    try:
        while not finished(store):
            try:
                print_written(write_report(replace(request, renew=RENEW_SECONDS)))
            except ConfigurationError:
                raise
            except (JobError, OSError, ValueError) as error:  # no slice yet, or one is still being written
                _log.warning("no report this time: %s", error)
            time.sleep(RENEW_SECONDS)
    except KeyboardInterrupt:  # a live job has no end, and writes none
        pass
    print_written(write_report(request))
    return 0


def print_written(written: "Written") -> None:
    """What the page shows, and where it is."""
    states = ", ".join(f"{count} {state}" for state, count in written.states.items() if count)
    more = len(written.pages) - 1
    also = f" and {more} more under {written.pages[1].parent}" if more else ""
    print(f"{sum(written.states.values())} streams: {states}")
    if written.compared:
        print(
            f"{written.shifted} of {sum(written.states.values())} streams shifted; "
            f"truth inside the interval in {written.inside} of {written.compared} windows"
        )
    print(f"report in {written.pages[0]}{also}")
