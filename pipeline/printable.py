"""Text from outside on a terminal or in a log: what would move the cursor, hide or forge a line is shown, not done."""

import re

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def printable(text: str) -> str:
    """With controls, line separators, invisible and direction-changing characters written as ``\\x1b`` or
    ``\\u202e``."""
    return _UNPRINTABLE.sub(lambda found: _escape(ord(found[0])), text)


def printable_lines(text: str) -> str:
    """As `printable`, line by line: for a text that is meant to have several."""
    return "\n".join(map(printable, text.split("\n")))


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
