"""Which concepts there are, which of them are classes, and what they are called.

A concept is one emoji of a single code point (a trailing variation selector aside: no flags, no keycaps, no skin-tone
or joined sequences). A **class** is a concept of the groups that show things (animals, food, places, activities,
objects) that every training vendor and every one of the three fluent sets has drawn. The other
concepts that at least three training vendors have drawn are *extras*: they enter the training as further concepts, and
nothing is ever labelled with them. Things that fewer have drawn are *unseen*: no training ever meets them, and they
show what the model does not know.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from demo.fetch import Package, packages

GROUPS = {
    0: "smileys",
    1: "people",
    3: "animals and nature",
    4: "food and drink",
    5: "travel and places",
    6: "activities",
    7: "objects",
    8: "symbols",
}
CLASS_GROUPS = (3, 4, 5, 6, 7)
TRAINING_VENDORS = tuple(package.set_name for package in packages("train"))
CLASS_VENDORS = (*TRAINING_VENDORS, "fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast")
EXTRA_VENDORS = 3
UNSEEN = 60
TAGS = 4


@dataclass
class PictureSet:
    """The drawings of one vendor: SVG bodies by icon name, found by code point or by the concept's CLDR name."""

    package: Package

    @cached_property
    def icons(self) -> dict[str, Any]:
        """The package's ``icons.json``."""
        data: dict[str, Any] = self.package.member("icons.json")
        return data

    @cached_property
    def characters(self) -> dict[str, str]:
        """Icon name by code points, where the package lists them."""
        return self.package.member("chars.json") or {}

    def icon_name(self, concept: "Concept") -> str | None:
        """The name of this vendor's drawing of the concept."""
        code = concept.hexcode.lower()
        listed = self.characters.get(code) or self.characters.get(f"{code}-fe0f")
        if listed:
            return listed
        name = slug(concept.label)
        if self.package.set_name == "fxemoji":
            name = name.replace("-", "")
        known = name in self.icons["icons"] or name in self.icons.get("aliases", {})
        return name if known else None


@dataclass(frozen=True)
class Concept:
    """One emoji: CLDR label and tags, its group, the training vendors that drew it."""

    hexcode: str
    label: str
    tags: tuple[str, ...]
    group: str
    vendors: tuple[str, ...]
    is_class: bool


def slug(label: str) -> str:
    """``Cat face`` -> ``cat-face``: how the icon sets spell CLDR names."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("’", "").replace("'", "")).strip("-")


def concepts(sets: dict[str, PictureSet]) -> list[Concept]:
    """What is trained on: classes first, then extras, each in the Unicode order of ``emojibase-data``."""
    found = [concept for concept in _all(sets) if concept.is_class or len(concept.vendors) >= EXTRA_VENDORS]
    return sorted(found, key=lambda concept: not concept.is_class)


def unseen(sets: dict[str, PictureSet]) -> list[Concept]:
    """The first things that noto has drawn and that are not trained on."""
    groups = [GROUPS[group] for group in CLASS_GROUPS]
    found = [c for c in _all(sets) if c.group in groups and not c.is_class and len(c.vendors) < EXTRA_VENDORS]
    return [concept for concept in found if "noto" in concept.vendors][:UNSEEN]


def named(labels: list[str]) -> list[Concept]:
    """The classes with these labels, in this order; whoever drew them. Raises ``KeyError`` for a label of none."""
    known = {concept.label: concept for concept in _listed()}
    return [replace(known[label], is_class=True) for label in labels]


def _listed() -> Iterator[Concept]:
    """Every single-code-point concept of ``GROUPS``."""
    (names,) = packages("names")
    for entry in names.member("en/data.json"):
        hexcode = entry["hexcode"].removesuffix("-FE0F")
        if "-" not in hexcode and entry.get("group") in GROUPS:
            tags = tuple(tag for tag in entry.get("tags", ()) if tag.lower() != entry["label"].lower())[:TAGS]
            yield Concept(hexcode, entry["label"], tags, GROUPS[entry["group"]], (), False)


def _all(sets: dict[str, PictureSet]) -> Iterator[Concept]:
    """The same, with the training vendors that drew it."""
    shown = [GROUPS[group] for group in CLASS_GROUPS]
    for concept in _listed():
        drawn = [vendor for vendor in CLASS_VENDORS if sets[vendor].icon_name(concept) is not None]
        is_class = concept.group in shown and len(drawn) == len(CLASS_VENDORS)
        vendors = tuple(vendor for vendor in drawn if vendor in TRAINING_VENDORS)
        yield replace(concept, vendors=vendors, is_class=is_class)
