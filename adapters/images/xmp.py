"""The orientation that a block of XMP says: an attribute or element ``Orientation`` of TIFF's namespace, whatever its
prefix is. A document type, with which entities come, ends the reading; so does what is no XML.
"""

import codecs
from contextlib import suppress
from typing import Any
from xml.parsers import expat

_NAMESPACE = "http://ns.adobe.com/tiff/1.0/"
_NAME = "Orientation"
_DEEPEST = 64
"""Elements within one another."""


class _Ended(Exception):
    """Nothing more is to be read."""


def orientation_of(text: bytes) -> int | None:
    """1 to 8; None where it says none, or none that can be read. UTF-8 or UTF-16, with or without a mark."""
    if _NAME not in text.replace(b"\0", b"").decode("latin-1"):
        return None
    reading = _Reading()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = reading.doctype
    parser.StartElementHandler = reading.start
    parser.EndElementHandler = reading.end
    parser.CharacterDataHandler = reading.characters
    with suppress(_Ended, expat.ExpatError):
        parser.Parse(_decoded(text), True)
    return reading.found


def _decoded(text: bytes) -> str:
    marks = (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")
    wide = next((name for mark, name in marks if text.startswith(mark)), None)
    wide = wide or {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}.get(text[:2], "utf-8")
    return text.decode(wide, "replace").lstrip("\ufeff \t\r\n")


class _Reading:
    """What a parser tells."""

    def __init__(self) -> None:
        self.found: int | None = None
        self._prefixes = [{"tiff": _NAMESPACE}]
        """Namespaces by prefix, as each element that is open declares them."""
        self._text: list[str] | None = None
        """Of an element that is an orientation."""

    def doctype(self, *_: Any) -> None:
        raise _Ended

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._prefixes) > _DEEPEST:
            raise _Ended
        self._prefixes.append({key[6:]: value for key, value in attributes.items() if f"{key}:".startswith("xmlns:")})
        for key, value in attributes.items():
            if ":" in key and self._wanted(key):
                self._take(value)
        self._text = [] if self._wanted(name) else None

    def characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def end(self, _: str) -> None:
        if self._text is not None:
            self._take("".join(self._text))
        self._text = None
        self._prefixes.pop()

    def _wanted(self, name: str) -> bool:
        prefix, _, local = name.rpartition(":")
        if local != _NAME:
            return False
        return next((found[prefix] for found in reversed(self._prefixes) if prefix in found), None) == _NAMESPACE

    def _take(self, value: str) -> None:
        if value.strip() in tuple("12345678"):
            self.found = int(value.strip())
            raise _Ended
