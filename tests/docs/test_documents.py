"""The documents agree with the code: every test, script and file that they name, and the README's example."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from grpo_tta import Batch
from grpo_tta.demo import pictures, scenes
from grpo_tta.evaluation.stream_makers import STREAMS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("demo/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_files_and_tests_that_a_document_names_are_there(document: Path) -> None:
    text = document.read_text()
    links = [document.parent / target for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)]
    assert [str(path) for path in links if not path.exists()] == []
    for file, name in re.findall(r"`(test_\w+\.py)::(\w+)", text):
        (path,) = ROOT.glob(f"tests/**/{file}")
        assert f"def {name}(" in path.read_text(), f"{file}::{name}"


def test_every_benchmark_has_its_command_in_the_document() -> None:
    scripts = [path.stem for path in ROOT.glob("benchmarks/*.py") if "def main(" in path.read_text()]
    named = re.findall(r"python -m benchmarks\.(\w+)", (ROOT / "docs/benchmarks.md").read_text())
    assert sorted(scripts) == sorted(set(named))


def test_every_stream_has_its_row_in_the_document() -> None:
    rows = [f"| `{name}` | {kind.uses} | {kind.about} |" for name, kind in STREAMS.items()]
    text = (ROOT / "docs/benchmarks.md").read_text()
    assert "\n".join(rows) in text


def test_the_notebook_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 40 files; what it says of each is what the method says of the frames that were written."""
    example, _ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    drawings, _ = pictures("fluent-emoji")
    frames = scenes(drawings, range(40), range(40))
    (tmp_path / "photos/door").mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame.transpose(1, 2, 0)).save(tmp_path / f"photos/door/{number:03d}.jpg", quality=98)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(example, found)
    assert found["state"]["updates"] == 2
    direct, _, _ = found["method"].step(
        Batch(torch.from_numpy(frames[:32]), torch.arange(32)), found["method"].initial_state()
    )
    named = direct.labels(found["classifier"].class_names)
    assert len(found["labels"]) == 40
    assert sum(one == other for one, other in zip(found["labels"], named, strict=False)) >= 26
