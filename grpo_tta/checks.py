"""The rules that settings are held to, with one wording for all of them: field, rule, value; and what is
raised for a model that cannot be used."""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any


class ModelError(ValueError):
    """A model, its weights, its classes or its prompts cannot be used; the message names the value and the way out."""


def described(schema: dict[str, Any], kind: type[Any]) -> None:
    """Give a class's JSON schema the docstrings under its fields, and under those that it inherits. pydantic's own
    ``use_attribute_docstrings`` reads the sources at every import."""
    import ast
    import inspect

    for base in kind.__mro__[-2::-1]:
        (made,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(made, ast.ClassDef)
        for field, text in pairwise(made.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                found = schema["properties"].get(ast.unparse(field.target), {})
                found["description"] = inspect.cleandoc(ast.literal_eval(text.value))


AS_SECTION: dict[str, Any] = {"extra": "forbid", "json_schema_extra": described}
"""What pydantic is told of settings that are a section of a configuration."""


def check_fields(
    settings: object,
    *,
    choices: Mapping[str, Sequence[str]] | None = None,
    at_least: Mapping[str, int] | None = None,
    positive: Sequence[str] = (),
    not_negative: Sequence[str] = (),
    shares: Sequence[str] = (),
    optional_positive: Sequence[str] = (),
) -> None:
    """Raise ``ValueError`` for the first field of ``settings`` that breaks its rule.

    ``shares`` are at most 1 (their lower end is theirs to state as positive or not negative); ``optional_positive``
    may be ``None``.
    """
    for name, allowed in (choices or {}).items():
        if getattr(settings, name) not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(settings, name)!r}")
    for name, least in (at_least or {}).items():
        if getattr(settings, name) < least:
            raise ValueError(f"{name} must be >= {least}, got {getattr(settings, name)}")
    _check_numbers(settings, positive, not_negative, shares)
    for name in optional_positive:
        value = getattr(settings, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be > 0, got {value}")


def _check_numbers(
    settings: object, positive: Sequence[str], not_negative: Sequence[str], shares: Sequence[str]
) -> None:
    for name in (*positive, *not_negative):
        if not math.isfinite(getattr(settings, name)):
            raise ValueError(f"{name} must be finite, got {getattr(settings, name)}")
    for name in positive:
        if getattr(settings, name) <= 0:
            raise ValueError(f"{name} must be > 0, got {getattr(settings, name)}")
    for name in not_negative:
        if getattr(settings, name) < 0:
            raise ValueError(f"{name} must be >= 0, got {getattr(settings, name)}")
    for name in shares:
        if getattr(settings, name) > 1:
            raise ValueError(f"{name} must be <= 1, got {getattr(settings, name)}")


def is_whole(text: str) -> bool:
    """Whether a text is a whole number and nothing else, in ASCII digits: ``int`` takes those of every script."""
    return text.isascii() and text.isdecimal()


def class_name(text: str) -> str:
    """A class's name as it is kept: composed (NFC), without surrounding blanks."""
    return unicodedata.normalize("NFC", text).strip()


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """At least two class names, none blank, none twice, no two that look alike, else ``ModelError``; each as
    `class_name` keeps it."""
    kept = tuple(class_name(name) for name in names)
    if len(kept) < 2:
        raise ModelError(f"at least two classes are needed, got {len(kept)}")
    seen: dict[str, int] = {}
    looks: dict[str, str] = {}
    for position, name in enumerate(kept, start=1):
        look = _look(name)
        if not look:
            raise ModelError(f"class name number {position} is blank")
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            raise ModelError(f"class name number {position} holds a control character or half of one: {name!a}")
        if name in seen:
            raise ModelError(f"class name {name!r} appears twice, as number {seen[name]} and number {position}")
        if look in looks:
            first = looks[look]
            raise ModelError(
                f"class names number {seen[first]} and number {position} look alike: {first!a} and {name!a}"
            )
        seen[name], looks[look] = position, name
    return kept


_ALIKE = {
    "a": "аαɑ⍺", "b": "Ьƅ", "c": "сϲςⲥ", "d": "ԁ", "e": "еҽ℮", "f": "ϝք", "g": "ɡցƍ", "h": "һհ", "i": "іιɩɪ", "j": "јϳ",
    "k": "кκĸⲕ", "l": "ӏǀ", "n": "ոη", "o": "оοօⲟ", "p": "рρϱⲣ", "q": "ԛգ", "r": "гᴦⲅ", "s": "ѕƽ", "t": "тτ",
    "u": "υսʋ", "v": "νѵ", "w": "ԝѡաω", "x": "хχ", "y": "уγყ",
    "A": "АΑᎪ", "B": "ВΒᏴ", "C": "СϹᏟ", "D": "Ꭰ", "E": "ЕΕᎬ", "F": "Ϝ", "G": "ԌᏀ", "H": "НΗᎻ", "I": "ІΙӀ", "J": "ЈᎫͿ",
    "K": "КΚᏦ", "L": "Ꮮ", "M": "МΜᎷϺ", "N": "Ν", "O": "ОΟՕ", "P": "РΡᏢ", "Q": "Ԛ", "R": "ᎡᏒ", "S": "ЅᏚՏ",
    "T": "ТΤᎢ", "U": "Ս", "V": "ѴᏙ", "W": "ԜᎳᏔ", "X": "ХΧ", "Y": "Υ", "Z": "ΖᏃ", "'": "’‘ʼʹ′`´", "-": "−",
}  # fmt: skip
"""Letters of other scripts and of phonetics that are drawn as Latin ones, and marks that are drawn as others. No two
that one language tells apart (Turkish i and dotless i, Mongolian u) are under one letter."""
_TWINS = str.maketrans({other: letter for letter, others in _ALIKE.items() for other in others})
_UNSEEN = ("Cc", "Cf", "Cn", "Co", "Cs")
_UNSEEN_NAME = re.compile("FILLER|VARIATION SELECTOR|GRAPHEME JOINER|VOWEL INHERENT")
"""Of what is ignored where it is drawn (Default_Ignorable_Code_Point) and is of no category that says so."""
_BLANKS = re.compile("[\\s\u2800]+")
_SMALL_CAPITAL = re.compile("LATIN LETTER SMALL CAPITAL ([A-Z])")


def _look(name: str) -> str:
    """Equal for names that a reader cannot tell apart: without what is not drawn, one kind of blank and of dash, one of
    each letter and digit."""
    text = unicodedata.normalize("NFKC", name.translate(_TWINS)).translate(_TWINS)
    return _BLANKS.sub(" ", "".join(map(_drawn, text))).strip()


def _drawn(letter: str) -> str:
    """What stands for a letter that is drawn alike; nothing for what is not drawn."""
    if (letter.isascii() and letter.isprintable()) or letter.isspace():
        return letter
    kind, said = unicodedata.category(letter), unicodedata.name(letter, "")
    if kind in _UNSEEN or _UNSEEN_NAME.search(said):
        return ""
    small = _SMALL_CAPITAL.fullmatch(said)
    return "-" if kind == "Pd" else small[1].lower() if small else letter
