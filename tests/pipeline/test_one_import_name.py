"""What is installed owns one import name, whatever a project calls its own folders."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = tuple(sorted(path.name for path in (ROOT / "grpo_tta").iterdir() if path.is_symlink()))
COPIED = (*ROOMS, "grpo_tta", "pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel of this tree holds, unpacked."""
    tree, site = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("site")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", build], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def test_the_wheel_has_one_name_and_no_link(site: Path) -> None:
    assert sorted(path.name for path in site.iterdir() if not path.name.endswith(".dist-info")) == ["grpo_tta"]
    assert {room for room in ROOMS if (site / "grpo_tta" / room / "__init__.py").is_file()} == set(ROOMS)
    assert (site / "grpo_tta/schemas/json/ImageEvent.json").is_file()
    assert (site / "grpo_tta/py.typed").is_file()


def test_the_wheel_lives_beside_a_project_with_the_same_folders(site: Path, tmp_path: Path) -> None:
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("OWN = True\n")
    (tmp_path / "main.py").write_text(
        "import runpy\n"
        f"import {', '.join(ROOMS)}\n"
        "import grpo_tta.pipeline.config.job, grpo_tta.bench\n"
        f"assert all(room.OWN for room in ({', '.join(ROOMS)}))\n"
        "print(grpo_tta.pipeline.config.job.__file__, grpo_tta.bench.__file__)\n"
        "runpy.run_module('grpo_tta.pipeline.cli', run_name='__main__')\n"
    )
    arguments = [sys.executable, "main.py", "config", "show", "--source", "in", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for said in (site / "grpo_tta/pipeline/config/job.py", site / "grpo_tta/bench/__init__.py", "url: in"):
        assert str(said) in done.stdout
