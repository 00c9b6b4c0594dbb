"""What a command says beside its results: log, progress, warnings and errors go to stderr, results to stdout.

Colour where there is a terminal and no ``NO_COLOR``. A line of progress that stands on the terminal moves out of the
way of what is said meanwhile.
"""

import logging
import os
from pathlib import Path

from rich.console import Console

from grpo_tta.pipeline.cli.logs import JsonLines, TextLines
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.printable import printable_lines
from grpo_tta.pipeline.quiet import tells_something


class _Results(Console):
    """Stdout."""

    def on_broken_pipe(self) -> None:
        """Who reads has read enough: for the command line to end on."""
        raise


if not os.environ.get("COLUMNS", "80").strip("0"):  # some pseudo terminals say so; rich would print nothing
    del os.environ["COLUMNS"]
errors = Console(stderr=True, highlight=False, soft_wrap=True)
results = _Results(highlight=False, soft_wrap=True)
_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


class _Chosen:
    """By the flags of the command line; of a process, which has one."""

    json = False
    least = logging.INFO


class _Lines(logging.Handler):
    """Log records on the console."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record; a failure is what the standard library's handlers make of one."""
        try:
            style = None if _Chosen.json else _STYLES.get(record.levelno)
            errors.out(self.format(record), style=style, highlight=False)
        except Exception:
            self.handleError(record)


_TORCH = {
    ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"): "passive",
    ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"): "64",
}
"""Unless one of the names is set, the first is: how long a thread of OpenMP keeps its core while it waits (standard, of
GNU's library, of LLVM's), and for how many operations and sizes of forwards oneDNN keeps code (now, of old)."""


def environment_for_torch() -> None:
    """Threads that sleep while they wait and memory that does not grow with every size of a forward, unless the
    environment says otherwise. Comes before torch, which reads it when it is loaded."""
    for names, value in _TORCH.items():
        if not any(name in os.environ for name in names):
            os.environ[names[0]] = value


def set_up(*, verbose: bool = False, quiet: bool = False, log_format: str = "text") -> None:
    """How this process speaks; before torch is loaded. ``quiet``: of warnings and errors alone. ``verbose``: libraries
    too."""
    environment_for_torch()
    _Chosen.json = log_format == "json"
    _Chosen.least = logging.WARNING if quiet else logging.INFO
    lines = _Lines()
    lines.setFormatter(JsonLines() if _Chosen.json else TextLines())
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[lines])
    logging.captureWarnings(True)  # libraries tell programmers there
    logging.getLogger("grpo_tta").setLevel(logging.DEBUG if verbose else _Chosen.least)
    if verbose:
        return
    for name in ("apache_beam", "kafka.net.selector", "py.warnings"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Tracebacks of connections that ended, and of steps: what came of it is in our own message, or it passed.
    for name in ("kafka.net.transport", "apache_beam.runners.common"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for handler in logging.getLogger().handlers:
        handler.addFilter(tells_something)


def check_replaceable(flag: str, path: str | Path) -> None:
    """Raise `ConfigurationError` where a file that is written whole would take the place of a device or folder."""
    if Path(path).exists() and not Path(path).is_file():
        raise ConfigurationError(f"{flag} {path}: it is there and no file, give another name")


def draws() -> bool:
    """Whether progress is one line that is drawn anew: for a person at a terminal who asked neither for JSON nor for
    silence."""
    return errors.is_terminal and not errors.is_dumb_terminal and not _Chosen.json and _Chosen.least <= logging.INFO


def say(text: str, level: int = logging.INFO, **figures: object) -> None:
    """One line; in JSON a record of the log, with its ``figures``."""
    if level < _Chosen.least:
        return
    if not _Chosen.json:
        errors.out(printable_lines(text), style=_STYLES.get(level), highlight=False)
        return
    record = logging.LogRecord("grpo_tta", level, "", 0, text, None, None)
    record.figures = figures
    errors.out(JsonLines().format(record), highlight=False)
