"""The steps of the Dockerfile without an engine, in an empty folder that stands for the images' root:
``python docker/check.py EMPTY_FOLDER``.

``--torch-from SITE_PACKAGES`` takes torch from there in place of the step that installs it. The python is the one on
PATH, users are not made. At the end each image's command line is asked for its help.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[1]
_OF_THE_ENGINE = ("FROM", "COMMENT", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD")


def instructions(path: Path = ROOT / "docker/Dockerfile") -> list[dict[str, Any]]:
    """``instruction`` and ``value`` of each, in order, with their continued lines in one."""
    with path.open("rb") as file:
        return list(DockerfileParser(fileobj=file).structure)


def run(target: Path, torch_from: str | None) -> None:
    """All steps; raises ``CalledProcessError`` for one that fails."""
    place, environment = target, dict(os.environ)
    for one in instructions():
        name, value = one["instruction"], one["value"].replace("/opt/", f"{target}/opt/")
        if name == "WORKDIR":
            place = Path(f"{target}{value}")
            place.mkdir(parents=True, exist_ok=True)
        elif name in ("ARG", "ENV"):
            environment |= {
                key: os.path.expandvars(text) for key, _, text in (x.partition("=") for x in shlex.split(value))
            }
        elif name == "COPY" and not value.startswith("--from"):
            _copy(value.split(), place)
        elif name == "RUN" and "useradd" not in value:
            if torch_from and "TORCH_INDEX" in value:
                (site,) = target.glob("opt/venv/lib/*/site-packages")
                (site / "torch-from.pth").write_text(f"{torch_from}\n")
                continue
            print(f"RUN {value}", flush=True)
            subprocess.run(["bash", "-euc", value], cwd=place, env=environment, check=True)
        elif name not in (*_OF_THE_ENGINE, "COPY", "RUN"):
            raise ValueError(f"docker/check.py knows no {name}")
    commands = [json.loads(one["value"]) for one in instructions() if one["instruction"] == "ENTRYPOINT"]
    for command in commands:
        subprocess.run([f"{target}/opt/venv/bin/{command[0]}", *command[1:], "--help"], cwd=place, check=True)


def _copy(words: list[str], place: Path) -> None:
    *sources, last = words
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place / last, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (place / last).mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, place / last)


def main() -> int:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--torch-from", metavar="SITE_PACKAGES")
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    if any(flags.folder.iterdir()):
        print(f"{flags.folder} is not empty", file=sys.stderr)
        return 2
    run(flags.folder.resolve(), flags.torch_from)
    return 0


if __name__ == "__main__":
    sys.exit(main())
