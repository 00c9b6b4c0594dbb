"""The rows of a comparison as a file that grows: JSON, one cell a line, each written as soon as it was measured.

Beside ``FILE`` lies ``FILE.frames/``, for each row a small file of which frames were right, so that a later run can
compare with it and join seeds. A row is known by its key, everything that its figures depend on; a run that was killed
goes on behind the last whole line.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grpo_tta.pipeline.errors import JobError

Row = dict[str, Any]

KEY = (
    *("method", "settings", "stream", "corruption", "severity", "seed", "frames", "resets_by"),
    *("batch_size", "model", "data", "guard"),
)
"""The columns that make a cell what it is."""


def key_of(row: Mapping[str, Any]) -> str:
    """16 hex digits; raises ``KeyError`` for a row without a column of ``KEY``."""
    text = json.dumps([row[name] for name in KEY])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Outcome:
    """What a cell came to, frame by frame: ``[N]`` each, and the frames seen at each detection."""

    labels: NDArray[np.int64]
    right: NDArray[np.bool_]
    frozen_right: NDArray[np.bool_]
    detections: NDArray[np.int64]


class RowFile:
    """``path`` ``None``: rows are kept in memory only. Raises `JobError` for a file with a line that is no row."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: dict[str, Row] = {}
        self._outcomes: dict[str, Outcome] = {}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._read(path)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def get(self, key: str) -> Row | None:
        """The row of that key."""
        return self._rows.get(key)

    def outcome(self, key: str) -> Outcome | None:
        """The frames of that row; ``None`` where their file is gone."""
        if key in self._outcomes or self._path is None:
            return self._outcomes.get(key)
        try:
            with np.load(self._frames(self._path, key)) as kept:
                return Outcome(kept["labels"].astype(np.int64), kept["right"], kept["frozen_right"], kept["detections"])
        except OSError:
            return None

    def append(self, row: Row, outcome: Outcome) -> None:
        """Frames first, then the row: a row that is in the file is whole."""
        key = key_of(row)
        if self._path is None:
            self._outcomes[key] = outcome
        else:
            self._write_frames(self._path, key, outcome)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        self._rows[key] = row

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                self._rows[key_of(row)] = row
            except (ValueError, KeyError, TypeError) as error:
                raise JobError(f"{path}, line {number} is no row of 'grpo-tta bench': {error!r}") from error
        if whole != text:  # the line that was being written when a run was killed
            os.truncate(path, len(whole.encode("utf-8")))

    @staticmethod
    def _frames(path: Path, key: str) -> Path:
        return path.with_name(f"{path.name}.frames") / f"{key}.npz"

    def _write_frames(self, path: Path, key: str, outcome: Outcome) -> None:
        target = self._frames(path, key)
        target.parent.mkdir(exist_ok=True)
        unfinished = target.with_suffix(".part")
        with unfinished.open("wb") as file:
            np.savez_compressed(
                file,
                labels=outcome.labels.astype(np.int32),
                right=outcome.right,
                frozen_right=outcome.frozen_right,
                detections=outcome.detections,
            )
        os.replace(unfinished, target)
