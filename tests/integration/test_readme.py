"""What the README says to type, typed: from a clone to one's own folder labelled."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from grpo_tta.pipeline.cli.flags import check_values, job_values
from grpo_tta.pipeline.cli.parser import parsed
from grpo_tta.pipeline.config.job import make_config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SHORT = "--images 240"
"""Of the demo: the README's own takes minutes."""


def blocks(heading: str) -> list[str]:
    """The indented blocks below a heading, in order."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
    return [re.sub("^    ", "", block, flags=re.MULTILINE) for block in found]


def typed(block: str, folder: Path) -> str:
    """Run by a shell that stops at the first error; what it said."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("VIRTUAL_ENV", "PYTHON"))}
    done = subprocess.run(
        ["bash", "-euc", block], cwd=folder, env={**kept, "DEMO_FLAGS": SHORT}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After the quick start."""
    folder = tmp_path_factory.mktemp("stranger")
    start, _ = blocks("Quick start")
    said = typed(start.replace("<this repository>", shlex.quote(str(ROOT))), folder)
    assert "look at" in said
    assert "out/demo/report.html" in said
    return folder / "grpo-tta"


@pytest.mark.timeout(1800)
def test_from_a_clone_to_ones_own_folder_labelled(clone: Path) -> None:
    for number, photo in enumerate(sorted((clone / "out/demo/feed").rglob("*.jpg"))[:60]):
        place = clone / "photos" / f"door-{number % 2}" / photo.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, place)
    said = typed("source .venv/bin/activate\n" + blocks("Your own images")[0], clone)
    assert "10 of 10 images labelled, nothing written" in said
    assert "events 60, labels 60, dead letters 0" in said
    assert (clone / "results/report.html").is_file()
    table = re.findall(r"^\| `(\S+?)`(?:, `(\S+?)`)? \|", README.split("## What comes out")[1], re.MULTILINE)
    named = {name for row in table for name in row if name}
    assert {f"{path.name}/" if path.is_dir() else path.name for path in (clone / "results").iterdir()} - named == {
        "checkpoint/", "job.json",
    }  # fmt: skip
    (beam,) = re.findall(r"```python\n(import apache_beam .*?)```", README, re.DOTALL)
    (clone / "own.py").write_text(beam)
    typed(".venv/bin/python own.py", clone)
    assert list((clone / "out").glob("labels/**/*.jsonl"))


def test_the_other_commands_are_understood() -> None:
    lines = [line for heading in ("Your own images", "Your own topic") for block in blocks(heading)
             for line in block.splitlines()]  # fmt: skip
    assert len(lines) == 7
    for line in lines:
        flags = parsed(shlex.split(line)[1:])
        if flags.command in ("label", "check"):
            values = (check_values if flags.command == "check" else job_values)(flags, [])
            assert make_config(values).source.url
