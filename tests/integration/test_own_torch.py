"""`make own-torch`: everything but torch into an environment that has a torch already, whichever build it is."""

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_BYTES = 700_000_000


def make(venv: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "own-torch", f"VENV={venv}"], cwd=ROOT, capture_output=True, text=True, timeout=800)


def closure(names: set[str]) -> set[str]:
    """These and what they need on this machine."""
    found: set[str] = set()
    while names:
        found |= names
        lines = [line for name in names for line in requires(name) or [] if "extra ==" not in line]
        needs = {re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0].lower() for line in lines}
        names = {need for need in needs - found if is_installed(need)}
    return found


def is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty, but for a path to a torch and what it needs."""
    folder = tmp_path_factory.mktemp("own")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    refused = make(folder / "venv")
    assert refused.returncode != 0
    assert "has no torch and torchvision: make the environment and install them first" in refused.stderr
    assert not list((folder / "venv").glob("lib/*/site-packages/rich"))
    torch = folder / "torch"
    torch.mkdir()
    for name in closure({"torch", "torchvision"}):
        own = distribution(name)
        for top in {file.parts[0] for file in own.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (torch / top).exists():
                (torch / top).symlink_to(Path(str(own.locate_file(top))))
    (site,) = (folder / "venv").glob("lib/*/site-packages")
    (site / "own-torch.pth").write_text(f"{torch}\n")
    return folder / "venv"


@pytest.mark.timeout(1700)
def test_all_but_torch_is_installed_beside_a_torch_that_is_there(environment: Path, tmp_path: Path) -> None:
    done = make(environment)
    assert done.returncode == 0, done.stderr
    (site,) = environment.glob("lib/*/site-packages")
    assert not [path.name for path in site.iterdir() if re.match("torch|nvidia|triton|cuda", path.name)]
    size = sum(path.lstat().st_size for path in site.rglob("*") if not path.is_symlink())
    print(f"everything but torch: {size / 1e6:.0f} MB")
    assert size <= MOST_BYTES
    command = str(environment / "bin/grpo-tta")
    without = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for arguments in (["demo", "feed", "--out", "feed", "--images", "24"],
                      ["label", "--source", "feed", "--out", "out", "--method", "zero-shot"]):  # fmt: skip
        done = subprocess.run([command, *arguments], cwd=tmp_path, env=without, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "labels 24, dead letters 0" in done.stdout
    assert make(environment).returncode == 0
    tests = subprocess.run(
        ["make", f"{environment}/.dev", f"VENV={environment}"], cwd=ROOT, capture_output=True, text=True
    )
    assert tests.returncode != 0
    assert "has a torch of its own" in tests.stderr
