"""Producers of a process."""

from pathlib import Path

import pytest

from grpo_tta.pipeline import sinks
from grpo_tta.pipeline.config.job import JobConfig

OUT = "kafka://127.0.0.1:1/out"


def test_jobs_of_one_process_have_producers_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "_producers", {})
    one, other = (
        JobConfig.model_validate(
            {
                "source": {"url": "kafka://127.0.0.1:1/in"},
                "output": {"url": OUT},
                "checkpoint": {"url": str(tmp_path / group)},
                "kafka": {"group": group},
            }
        )
        for group in ("one", "other")
    )
    first, second = sinks.producer(one, OUT), sinks.producer(other, OUT)
    assert sinks.producer(one.model_copy(), OUT) is first is not second
    sinks.close_producers(one)
    assert sinks.producer(other, OUT) is second
    assert sinks.producer(one, OUT) is not first
