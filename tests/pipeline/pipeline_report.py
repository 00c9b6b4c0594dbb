"""Records as a job writes them, made up, and the report of them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from grpo_tta.estimate import AccuracyCalibration, Side, Width
from grpo_tta.pipeline.report import page as pages
from grpo_tta.pipeline.report.report import ReportRequest, write_report
from grpo_tta.pipeline.report.stretches import Names, Packed, Stretches
from grpo_tta.schemas import DriftEvent, MonitorRecord
from grpo_tta.schemas.monitor import Shift

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def report(out: Path, page: Path, **request: Any) -> dict[str, Any]:
    write_report(ReportRequest(str(out), page, **request))
    return pages.unpack(page.read_bytes())


MODEL = {"model_fingerprint": "m", "method": "grpo-online", "settings_fingerprint": "s"}
SIDE = Side(0.5, 0.6, 0.0, Width({"clean": 0.02, "fog": 0.05}, 0.0))
CALIBRATION = AccuracyCalibration(**MODEL, images=500, window=200, effective_classes=2.0, adapted=SIDE, frozen=SIDE)


def stretch(hour: int, n: int = 200, sure: float = 0.6, **values: Any) -> MonitorRecord:
    unsure = round(n * (1 - sure))
    return MonitorRecord(
        **MODEL, stream="cam", bucket_start=START + HOUR * hour, bucket_seconds=3600, coordinate=f"c{hour:06d}", n=n,
        entropy={20: n - unsure, 80: unsure}, labels={"a": n // 2, "b": n - n // 2}, **values,
    )  # fmt: skip


def stretches(records: list[MonitorRecord]) -> Stretches:
    packed = Packed(Names())
    for record in records:
        packed.add("", record)
    return packed.unpack(None)[0]


def shift(hour: float) -> DriftEvent:
    return DriftEvent(
        stream="cam", coordinate="c", event_time=START + HOUR * hour, frame=1, signal="shift", size=0.5, reset=True,
        message="", model_fingerprint="m", method="grpo-online",
    )  # fmt: skip


def moved(hour: float) -> MonitorRecord:
    """A part that tells of a shift and of no image."""
    told = Shift(event_time=START + HOUR * hour, coordinate="c", thousandths=500, reset=False)
    return stretch(int(hour), 0, shifts=[told])


STEADY = [stretch(hour) for hour in range(4)]
