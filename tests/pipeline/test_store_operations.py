"""What a slice costs at the store that holds the checkpoint."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from live_fakes import FakeMember, LiveWorld
from pipeline_jobs import job_config, job_labeler, serve, write_pictures

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.run.bounded import run_label_job

pytestmark = pytest.mark.jobs

OPERATIONS = ("read", "read_range", "open_read", "write", "create", "exists", "delete", "names", "sweep")
KEEP = 2
USUAL = {"names resets": 1, "create plans": 1, "names epochs": 2, "write states": 1, "create commits": 1}
"""Of a partition's slice."""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Operations on any store, by ``FOLDER operation`` of the checkpoint's folders; a listing is the source's."""
    counts: Counter[str] = Counter()

    def counting(operation: str) -> Any:
        plain = getattr(ObjectStore, operation)

        def call(store: ObjectStore, name: str = "", *arguments: Any, **options: Any) -> Any:
            if re.search(r"/checkpoint(/partitions/[^/]+)?$", store.url) and not str(name).startswith("listing"):
                counts[f"{operation} {str(name).partition('/')[0]}"] += 1
            return plain(store, *([name] if name != "" else []), *arguments, **options)

        return call

    for operation in OPERATIONS:
        monkeypatch.setattr(ObjectStore, operation, counting(operation))
    return counts


def test_six_operations_a_slice_and_now_and_then_a_collection(
    tmp_path: Path, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    streams, slices = 3, 8
    write_pictures(tmp_path / "feed", dict.fromkeys([f"cam-{number}" for number in range(streams)], 4 * slices))
    config = job_config(tmp_path / "feed", tmp_path / "out", checkpoint={"slice_records": 4 * streams, "keep": KEEP})
    serve(monkeypatch, job_labeler(config))
    of_slices: list[Counter[str]] = []

    def told(progress: Any) -> None:
        of_slices.append(Counter(counted))
        counted.clear()

    run_label_job(config, progress=told)
    assert len(of_slices) == 1 + slices
    collecting = {"names plans", "names commits", "names states", "delete plans", "delete commits", "delete states"}
    for number, counts in enumerate(of_slices[2:], start=1):
        if (number + 1) % (2 * KEEP):
            assert counts == USUAL, f"slice {number}"
        else:
            assert set(counts) - set(USUAL) <= collecting
            assert sum(counts.values()) > 12, "several slices' files go at a time"


def test_a_live_slice_costs_each_of_its_partitions_the_same(tmp_path: Path, counted: Counter[str]) -> None:
    world = LiveWorld(tmp_path, t_0=25, t_1=25)
    of_slices: list[Counter[str]] = []

    def run_slice(parts: Any) -> Any:
        of_slices.append(Counter(counted))
        counted.clear()
        return world.run_slice(parts)

    world.driver(FakeMember(["t-0", "t-1"]), slice_records=5, run_slice=run_slice).run()
    assert of_slices[1:] == [Counter({name: 2 * count for name, count in USUAL.items()})] * 4
