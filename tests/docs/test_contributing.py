"""The examples of how to add a method, a source, a sink or a drift signal are tests: they inherit what each owes."""

import re
from functools import cache
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
assert len(BLOCKS) == 4
for _block in BLOCKS:
    exec(_block)
globals()["load_classifier"] = cache(globals()["load_classifier"])
"""The model of the first example is the same for all its tests."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
