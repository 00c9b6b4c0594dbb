"""Render every concept of every picture set to 72x72 RGBA, one ``build/demo/pictures/<set>.npz`` a set.

Arrays of a set: ``pictures`` uint8 ``[N, 72, 72, 4]`` (straight alpha) and ``concepts`` int64 ``[N]``, rows of
``build/demo/concepts.json``. Held-out sets are rendered for the classes only. ``unseen.npz`` with ``unseen.json`` are
noto's drawings of things that are not trained on.

``python -m demo.render SET`` fetches and renders one set alone, for the classes of the packaged model: ``concepts`` are
then their indices.
"""

import argparse
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

from demo.concepts import TRAINING_VENDORS, Concept, PictureSet, concepts, named, unseen
from demo.fetch import BUILD, PICTURES, fetch, packages

SIZE = 72
CLASSES = Path("grpo_tta/demo/assets/classes.json")


class RenderError(Exception):
    """An icon cannot be turned into a picture."""


def render_icon(icons: dict[str, Any], name: str) -> np.ndarray:
    """uint8 ``[72, 72, 4]`` of one icon or alias; an alias may mirror or turn its parent. Raises ``RenderError``."""
    alias = icons.get("aliases", {}).get(name, {})
    if alias and alias["parent"] not in icons["icons"]:
        raise RenderError(f"alias {name!r} of {icons['prefix']} has the parent {alias['parent']!r}, which is no icon")
    icon = icons["icons"][alias.get("parent", name)]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" '
        f'width="{SIZE}" height="{SIZE}" color="#202020">{icon["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, skip_system_fonts=True)
    picture = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))
    if picture.shape != (SIZE, SIZE, 4):
        raise RenderError(f"{name!r} of {icons['prefix']} rendered to {picture.shape}, expected {(SIZE, SIZE, 4)}")
    picture = np.rot90(picture, -alias.get("rotate", 0))
    if alias.get("hFlip"):
        picture = picture[:, ::-1]
    if alias.get("vFlip"):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def render_set(pictures: PictureSet, known: list[Concept]) -> tuple[np.ndarray, np.ndarray]:
    """The pictures and their concept rows; blank renderings (a drawing that needs a font) are left out."""
    rows, drawn = [], []
    for row, concept in enumerate(known):
        name = pictures.icon_name(concept)
        if name is None:
            continue
        picture = render_icon(pictures.icons, name)
        if picture[..., 3].any():
            rows.append(row)
            drawn.append(picture)
    return np.stack(drawn), np.array(rows, dtype=np.int64)


def main() -> None:
    """Render everything, or one set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("set", nargs="?", choices=[p.set_name for p in packages(*PICTURES)])
    arguments = parser.parse_args()
    (BUILD / "pictures").mkdir(parents=True, exist_ok=True)
    if arguments.set is None:
        render_all()
    else:
        render_one(arguments.set)


def render_one(name: str) -> None:
    """The classes of the packaged model as one vendor drew them."""
    (package,) = (package for package in packages(*PICTURES) if package.set_name == name)
    for needed in (package, *packages("names")):
        fetch(needed)
    classes = [entry["name"] for entry in json.loads(CLASSES.read_text(encoding="utf-8"))["classes"]]
    _save(name, PictureSet(package), named(classes))


def render_all() -> None:
    """Every set, and the list of concepts."""
    sets = {p.set_name: PictureSet(p) for p in packages(*PICTURES)}
    known = concepts(sets)
    classes = [concept for concept in known if concept.is_class]
    jobs = {name: (set_, known if name in TRAINING_VENDORS else classes) for name, set_ in sets.items()}
    jobs["unseen"] = (sets["noto"], unseen(sets))
    for name, (pictures, wanted) in jobs.items():
        _save(name, pictures, wanted)
    for name, listed in (("concepts", known), ("unseen", jobs["unseen"][1])):
        (BUILD / f"{name}.json").write_text(json.dumps([asdict(concept) for concept in listed], ensure_ascii=False))


def _save(name: str, pictures: PictureSet, wanted: list[Concept]) -> None:
    drawn, rows = render_set(pictures, wanted)
    unfinished = BUILD / "pictures" / f"{name}.part.npz"
    np.savez(unfinished, pictures=drawn, concepts=rows)
    unfinished.replace(unfinished.with_name(f"{name}.npz"))
    print(f"{name}: {len(rows)} pictures of {len(wanted)} things")


if __name__ == "__main__":
    main()
