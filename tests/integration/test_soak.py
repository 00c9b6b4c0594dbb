"""The soak benchmark, shortened: it labels everything and finds no descriptor more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_short_soak_leaves_no_descriptor_open(broker_libraries, tmp_path):
    out = tmp_path / "soak.json"
    command = [sys.executable, "-m", "benchmarks.soak", "--slices", "60", "--minutes", "0.5", "--json", str(out)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=280)
    assert out.exists(), ended.stderr
    bars = {bar["name"]: bar for bar in json.loads(out.read_text())["bars"]}
    assert len(bars) == 4
    assert bars["small, descriptors more"]["reached"]
    assert bars["steady, descriptors more"]["reached"]
