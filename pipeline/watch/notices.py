"""What was capped, odd or repaired of events that are taken: logged once a process here, counted with the slice by who
finds it."""

import logging

KINDS = ("time_capped", "time_before_1980", "time_guessed", "stream_guessed", "image_without_end")
_log = logging.getLogger(__name__)
_told: set[str] = set()
"""Kinds that this process has told of."""


def tell(kind: str, coordinate: str, said: str) -> None:
    """Say the first of each ``kind`` in the log: which event it was, and ``said``, what it is."""
    if kind not in _told:
        _told.add(kind)
        _log.warning("%s: %r %s; logged once, counted in the summary", kind, coordinate, said)
