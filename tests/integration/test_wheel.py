"""The wheel, as a release would have it: built of the tree, installed elsewhere, used from another folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv") or str(ROOT / ".uv/bin/uv")


def run(*command: object, cwd: Path, environment: Path | None = None) -> str:
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if environment is not None:
        kept["VIRTUAL_ENV"] = str(environment)
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of the source distribution, so that this is whole too."""
    folder = tmp_path_factory.mktemp("dist")
    run(UV, "build", "--quiet", "--out-dir", folder, ROOT, cwd=folder)
    (found,) = folder.glob("*.whl")
    assert len(list(folder.glob("*.tar.gz"))) == 1
    return found


def test_the_metadata_says_what_a_release_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        (name,) = [name for name in files.namelist() if name.endswith(".dist-info/METADATA")]
        text = files.read(name).decode()
        assert "grpo_tta/py.typed" in files.namelist()
    metadata = Parser().parsestr(text)
    assert (metadata["Name"], metadata["Requires-Python"], metadata["License-Expression"]) == (
        "grpo-tta",
        ">=3.11",
        "Apache-2.0",
    )
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.13"} <= set(metadata.get_all("Classifier"))
    assert all(url.partition(", ")[2].startswith("https://") for url in metadata.get_all("Project-URL"))
    assert "file:" not in text


def use(environment: Path, wheel: Path, folder: Path) -> None:
    """Install it without what it needs, which is there, and label a feed with it."""
    run(UV, "pip", "install", "--quiet", "--no-deps", wheel, cwd=folder, environment=environment)
    where = run(environment / "bin/python", "-c", "import grpo_tta; print(grpo_tta.__file__)", cwd=folder)
    assert where.startswith(str(environment))
    command = environment / "bin/grpo-tta"
    run(command, "demo", "feed", "--out", "feed", "--images", 24, cwd=folder)
    said = run(command, "label", "--source", "feed", "--out", "out", "--method", "zero-shot", cwd=folder)
    assert "labels 24, dead letters 0" in said
    assert "grpo_tta 0" in run(command, "version", cwd=folder)


def test_it_is_used_outside_the_tree(wheel: Path, tmp_path: Path) -> None:
    run(UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path)
    (site,) = (tmp_path / "venv").glob("lib/*/site-packages")
    (site / "needs.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # its editable installs are not followed
    use(tmp_path / "venv", wheel, tmp_path)


@pytest.mark.slow  # gigabytes
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_it_is_used_with_newer_pythons_and_the_pinned_packages(version: str, wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    found = subprocess.run([UV, "python", "find", "--no-python-downloads", version], capture_output=True, text=True)
    if found.returncode != 0:
        pytest.skip(f"there is no Python {version} on PATH")
    run(UV, "venv", "--quiet", "--python", found.stdout.strip(), environment, cwd=tmp_path)
    pinned = ("--require-hashes", "-r", ROOT / "requirements/run.txt", "--excludes", ROOT / "requirements/gpu-only.txt")
    run(UV, "pip", "install", "--quiet", *pinned, cwd=tmp_path, environment=environment)
    use(environment, wheel, tmp_path)
