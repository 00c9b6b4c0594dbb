"""Extras: what `pyproject.toml` has, make installs, messages and documents name."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from grpo_tta.adapters.storage.filesystems import MissingBackend
from grpo_tta.adapters.video.container import library
from grpo_tta.pipeline.config.sections import RunConfig
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.run import runner

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
FOLDERS = ("adapters", "beam", "bench", "docs", "grpo_tta", "pipeline", "schemas")


def test_make_has_every_extra_and_its_packages_are_pinned() -> None:
    (names,) = re.findall(r"^ALL_EXTRAS := (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(EXTRAS) == names.split()
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements/extras.txt").read_text(), re.MULTILINE))
    assert {re.split(r"[\[><=]", needed)[0] for packages in EXTRAS.values() for needed in packages} <= pinned
    assert "torch" not in pinned


@pytest.mark.parametrize(("given", "code"), [("video,s3", 0), ("vidoe", 1), ("", 1)])
def test_make_takes_the_extras_that_there_are(given: str, code: int, tmp_path: Path) -> None:
    """With an installer that does nothing."""
    (tmp_path / "bin").mkdir()
    for stamp in ("bin/python", ".run"):
        (tmp_path / stamp).touch()
    command = ["make", "extras", f"EXTRAS={given}", "INSTALL=echo installed", f"VENV={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode != 0) == (code != 0), done.stderr
    assert (f".[{given}]" in done.stdout) == (code == 0)
    assert (tmp_path / ".extras").exists() == (code == 0)
    (tmp_path / ".run").unlink()
    again = subprocess.run([*command[:1], *command[3:], f"{tmp_path}/.run"], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert ("extras.txt --excludes requirements/torch.txt --editable .[video,s3]" in again.stdout) == (code == 0)


def test_documents_and_messages_name_extras_that_there_are() -> None:
    files = [ROOT / "README.md", *(path for name in FOLDERS for path in (ROOT / name).rglob("*.*"))]
    texts = {
        path: path.read_text() for path in files if path.suffix in (".md", ".py") and "decisions" not in path.parts
    }
    said = [name for text in texts.values() for names in re.findall(r"EXTRAS=([a-z0-9,]+)", text)
            for name in names.split(",")]  # fmt: skip
    assert {"video", "s3", "dask"} <= set(said) <= EXTRAS.keys()
    assert [str(path) for path, text in texts.items() if "grpo-tta[" in text] == []


def test_who_needs_an_extra_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingBackend, match=r"frames of videos: .*'make extras EXTRAS=video'"):
        library()
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"DaskRunner: .*'make extras EXTRAS=dask'"):
        runner.check_runner(RunConfig(runner="DaskRunner"))
