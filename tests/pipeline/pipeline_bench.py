"""``grpo-tta bench`` as its tests run it."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Run = Callable[..., tuple[int, str, str]]
"""The command with these flags: exit code, and what was printed to both streams."""


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``--json`` file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_refused(bench: Run, out: Path, flags: Sequence[str], said: str) -> None:
    """Exit code 2 with nothing but a message that matches ``said``, and no file of rows."""
    code, printed, err = bench("--json", out, *flags)
    assert (code, printed) == (2, "")
    assert re.search(said, err), err
    assert not out.exists()
