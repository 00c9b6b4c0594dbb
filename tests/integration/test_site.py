"""The documentation's site: strictly built, so that no link or anchor leads nowhere, with pages made of the code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_tta.pipeline.cli.flags import all_flags
from grpo_tta.schemas import LabeledImage

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_front_page_is_the_readme_and_links_stay_in_the_site(site: Path) -> None:
    page = (site / "index.html").read_text()
    assert "<h1" in page
    assert 'href="guide/#live-streams"' in page
    assert "docs/guide.md" not in "".join(re.findall(r'href="([^"]*)"', page))
    assert 'href="0075-' in (site / "decisions/index.html").read_text()


def test_commands_and_records_are_those_of_the_code(site: Path) -> None:
    commands = (site / "reference/commands/index.html").read_text()
    assert [flag for flag, _, _ in all_flags() if flag not in commands] == []
    assert "usage: python -m grpo_tta.beam.live" in commands
    records = (site / "reference/records/index.html").read_text()
    assert [name for name in LabeledImage.model_fields if f"<code>{name}</code>" not in records] == []
    assert "At most 64, of 16,384 characters in all." in records  # said beside the field


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert re.findall(r'(?:src|rel="stylesheet" href)="(https?:[^"]+)"', path.read_text()) == [], path
