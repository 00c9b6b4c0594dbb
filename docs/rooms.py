"""The picture of docs/architecture.md: rooms in the order of the import rules, and an arrow for who imports whom.

``make schemas`` draws it; a test holds it to the code.
"""

import tomllib
from functools import cache
from html import escape
from pathlib import Path

import grimp

_ROOT = Path(__file__).parent
PICTURE = _ROOT / "pictures/rooms.svg"
METHOD, SMALL = "method", "small modules"
_TOP, _PIPELINE = "grpo_tta", "grpo_tta.pipeline"
_ROW, _WIDTH, _BOX, _ARC = 34, 300, 190, 17
_STYLE = """
text { font: 14px system-ui, sans-serif; fill: #1f2328 }
rect { fill: #fff; stroke: #57606a }
.room { fill: #ddf4ff }
.inner { fill: #fff8c5 }
path { fill: none; stroke: #57606a; stroke-width: 1.2; marker-end: url(#tip) }
"""


@cache
def floors() -> list[str]:
    """All rooms, from the top: the pipeline by its own rooms, the method last."""
    contracts = tomllib.loads((_ROOT.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    top, inner = ([*one["layers"]] for one in contracts if one["type"] == "layers")
    at = top.index("pipeline")
    return [*top[:at], *(SMALL if "|" in name else name for name in inner), *top[at + 1 :], METHOD]


def room_of(module: str) -> str | None:
    """The room that a module belongs to; None for a package that only holds rooms."""
    parts = module.split(".")
    if module in (_TOP, _PIPELINE):
        return None
    known = floors()
    if module.startswith(f"{_PIPELINE}."):
        return parts[2] if parts[2] in known else SMALL
    return parts[1] if parts[1] in known else METHOD


def arrows() -> set[tuple[str, str]]:
    """Every pair of rooms of which the first imports the second."""
    graph = grimp.build_graph(_TOP)
    pairs = {
        (room_of(module), room_of(imported))
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
    }
    return {(one, other) for one, other in pairs if one is not None and other is not None and one != other}


def upward(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The exceptions: a room that imports one above it."""
    return {(one, other) for one, other in pairs if floors().index(one) > floors().index(other)}


def drawn(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those that no way down over other rooms says already, and the exceptions."""
    down, below = pairs - upward(pairs), dict[str, set[str]]()
    for name in reversed(floors()):
        nearest = {other for one, other in down if one == name}
        below[name] = nearest.union(*(below[other] for other in nearest))
    said = {(one, far) for one, between in down for far in below[between]}
    return (down - said) | upward(pairs)


def picture() -> str:
    """As SVG: a box a room, arrows bent to the right, the wider the farther."""
    names = floors()
    inner = set(names[names.index("cli") : names.index(SMALL) + 1])
    pairs = sorted(drawn(arrows()), key=lambda pair: (names.index(pair[0]), names.index(pair[1])))
    height = _ROW * len(names) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="rooms">',
        f"<style>{_STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<polygon points="0,0 8,4 0,8" fill="#57606a"/></marker></defs>',
        f'<rect width="{_WIDTH}" height="{height}" stroke="none"/>',
    ]
    for at, name in enumerate(names):
        left = 40 if name in inner else 12
        kind = "inner" if name in inner else "room"
        y = 8 + _ROW * at
        parts += [
            f'<rect class="{kind}" x="{left}" y="{y}" width="{_BOX - left}" height="{_ROW - 8}" rx="5"/>',
            f'<text x="{left + 10}" y="{y + 18}">{escape(name)}</text>',
        ]
    for one, other in pairs:
        start, end = names.index(one), names.index(other)
        y, to = 8 + _ROW * start + 16, 8 + _ROW * end + 9
        way = f"M110,{y + 10} L110,{to - 9}"
        if end != start + 1:
            bend = _BOX + _ARC * abs(end - start) * 1.5
            way = f"M{_BOX},{y} C{bend},{y} {bend},{to} {_BOX + 2},{to}"
        dashes = ' stroke-dasharray="4 3"' if end < start else ""
        parts.append(f'<path d="{way}"{dashes}><title>{one} imports {other}</title></path>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture())
