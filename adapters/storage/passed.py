"""`PassedOver`: what a listing passes over, counted, with an example of each kind."""

import logging
from collections import Counter

from grpo_tta.adapters.storage.names import is_hidden
from grpo_tta.schemas.base import encodable

_log = logging.getLogger(__name__)
HIDDEN, LINKED, UNREADABLE = "(hidden)", "(linked folder)", "(unreadable)"
_NO_SUFFIX, _OTHER = "(no suffix)", "(other)"
_MOST_KINDS = 50
_LONGEST_SUFFIX = 12


class PassedOver:
    """By suffix, in lower case; what is hidden, a folder that is linked, or unreadable counts as that instead."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, kind: str, path: str) -> None:
        """One more."""
        if kind not in self.counts and len(self.counts) >= _MOST_KINDS:
            kind = _OTHER
        self.counts[kind] += 1
        self._examples.setdefault(kind, path)

    def file(self, relative: str) -> None:
        """A file that is no event by its name."""
        name = relative.rpartition("/")[2]
        if is_hidden(relative):
            self.add(HIDDEN, relative)
            return
        dot = name.rfind(".")
        suffix = name[dot:].lower() if dot > 0 else _NO_SUFFIX
        self.add(suffix if len(suffix) <= _LONGEST_SUFFIX else _OTHER, relative)

    def say(self, source: str, before: "PassedOver | None" = None) -> None:
        """In the log, each kind with an example; those that were there ``before`` were said. What is unreadable is
        warned of; the rest is for who looks for it."""
        for kind, count in sorted(self.counts.items()):
            if before is None or kind not in before.counts:
                level = logging.WARNING if kind == UNREADABLE else logging.DEBUG
                _log.log(level, "source %s: passed over %d %s, like %r", source, count, kind, self._examples[kind])

    def plain(self) -> dict[str, int]:
        """As it is written down."""
        return {encodable(kind): count for kind, count in sorted(self.counts.items())}
