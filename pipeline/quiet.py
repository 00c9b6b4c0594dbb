"""One warning of Beam's is left out of the log: that Google's client libraries are missing tells a user nothing."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


def tells_something(record: logging.LogRecord) -> bool:
    """False for that warning; a filter of handlers and loggers."""
    return "apitools" not in record.getMessage()


@contextmanager
def quiet_import() -> Iterator[None]:
    """While Beam is imported: without the warning, and without the handler that it would give a program which has set
    up no log."""
    root, nothing = logging.getLogger(), logging.NullHandler()
    root.addHandler(nothing)
    root.addFilter(tells_something)
    try:
        yield
    finally:
        root.removeFilter(tells_something)
        root.removeHandler(nothing)
