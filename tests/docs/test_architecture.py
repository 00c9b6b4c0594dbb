"""The page about the rooms says what the code is: floors as the import rules have them, and every folder."""

import re
import tomllib
from pathlib import Path

from docs.rooms import picture

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
TABLE = PAGE.split("```")[1]


def layers(container: str) -> list[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (found,) = [one["layers"] for one in contracts if one.get("containers") == [container]]
    return list(found)


def floors(indent: str) -> list[str]:
    """The names of the table that stand at this depth, from the top."""
    lines = [line for line in TABLE.splitlines() if re.match(rf"{indent}\S", line) and "evaluation |" not in line]
    return [line.strip() if "|" in line else line.split()[0] for line in lines]


def test_the_floors_are_those_that_the_import_rules_hold_the_code_to() -> None:
    assert floors("") == layers("grpo_tta")
    assert floors("  ") == layers("grpo_tta.pipeline")


def test_the_picture_has_the_rooms_and_arrows_of_the_imports() -> None:
    assert (ROOT / "docs/pictures/rooms.svg").read_text() == picture(), "make schemas draws it anew"


def test_every_room_is_there_and_none_is_missing() -> None:
    inside = {path.stem for path in (ROOT / "pipeline").iterdir() if path.suffix == ".py" or path.is_dir()}
    named = {name for floor in floors("  ") for name in floor.split(" | ")}
    assert named == inside - {"__init__", "__pycache__"}
    (method,) = [line for line in TABLE.splitlines() if "evaluation |" in line]
    packages = {path.name for path in (ROOT / "grpo_tta").iterdir() if path.is_dir() and not path.is_symlink()}
    assert set(re.findall(r"\w+", method.partition(",")[0])) == packages - {"__pycache__"}
    linked = {path.name for path in (ROOT / "grpo_tta").iterdir() if path.is_symlink()}
    assert linked == set(floors(""))


def test_every_place_on_the_way_of_an_image_is_a_module_or_a_name_of_one() -> None:
    table = PAGE.split("## The way of one image")[1]
    rows = [line.split(" | ") for line in table.splitlines() if re.match(r"\| \d+ \|", line)]
    assert 10 <= len(rows) <= 14
    for row in rows:
        for place in re.findall(r"`([^`]+)`", row[-1]):
            assert exists(place), place


def exists(place: str) -> bool:
    for base in (ROOT / "pipeline", ROOT, ROOT / "grpo_tta"):
        path = base.joinpath(*place.split("."))
        if path.is_dir() or path.with_suffix(".py").is_file():
            return True
        module = path.parent.with_suffix(".py")
        if module.is_file() and f"class {path.name}" in module.read_text():
            return True
    return False
