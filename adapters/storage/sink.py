"""Output files: rows in, one file a call, JSON Lines or Parquet, and the reader of both.

A file is complete before it appears and its bytes depend on nothing but its records: they are sorted by a total order
and no time or host is written. The caller gives stable names, so that a replay overwrites what the first attempt
wrote.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from io import BytesIO
from typing import BinaryIO, Literal, NamedTuple, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from grpo_tta.adapters.json_event import problems
from grpo_tta.adapters.rows import KINDS, Row
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.schemas import WireModel

FileFormat = Literal["jsonl", "parquet"]
FORMATS: tuple[FileFormat, ...] = ("jsonl", "parquet")
Record = TypeVar("Record", bound=WireModel)
_STEM = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.\-]*$")
_DIGITS = 32
_PIECE = 2**20
_DATED = re.compile(r"^(\d{4}-\d{2}-\d{2}/)?[A-Za-z0-9_][A-Za-z0-9_.\-]*$")


class WrittenFile(NamedTuple):
    """A file that was written: the object's name in the store, and the digest of its bytes."""

    name: str
    digest: str


def file_digest(file: BinaryIO) -> str:
    """Of an open file's bytes, as `WrittenFile` has it."""
    digest = hashlib.sha256()
    for piece in iter(lambda: file.read(_PIECE), b""):
        digest.update(piece)
    return digest.hexdigest()[:_DIGITS]


class RecordFiles:
    """Files of one kind of record, in ``folder`` of a store. Raises ValueError for an unknown format or bad folder."""

    def __init__(self, store: ObjectStore, folder: str, file_format: FileFormat = "jsonl") -> None:
        if file_format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {file_format!r}")
        if not _STEM.fullmatch(folder):
            raise ValueError(f"folder must be one plain name, got {folder!r}")
        self._store = store
        self._folder = folder
        self._format = file_format

    def path(self, name_stem: str) -> str:
        """The object's name in the store. Raises ValueError for a stem that is no plain file name, with or without a
        day's folder before it (``2026-01-31/name``)."""
        if not _DATED.fullmatch(name_stem):
            raise ValueError(f"file name must be of letters, digits, '_', '.', '-', got {name_stem!r}")
        return f"{self._folder}/{name_stem}.{self._format}"

    def write(self, name_stem: str, rows: Iterable[Row]) -> WrittenFile | None:
        """Write rows of one kind in their order; None where there are none."""
        path, ordered = self.path(name_stem), sorted(rows)
        if not ordered:
            return None
        if self._format == "parquet":
            from grpo_tta.adapters.storage.parquet import to_parquet

            data = to_parquet(KINDS[ordered[0].kind], [row.record() for row in ordered])
        else:
            data = b"".join(row.value + b"\n" for row in ordered)
        self._store.write(path, data)
        return WrittenFile(path, file_digest(BytesIO(data)))


def read_records(url: str, folder: str, model: type[Record]) -> Iterator[Record]:
    """All records under ``url``/``folder``, of both formats, file by file in the order of their names.

    Raises ValueError naming the file and line of one that is no such record.
    """
    store = ObjectStore(url)
    for name in store.names(f"{folder}/"):
        yield from read_file(store, name, model)


def read_file(
    store: ObjectStore, name: str, model: type[Record], streams: Collection[str] | None = None
) -> Iterator[Record]:
    """The records of one file, of ``streams`` alone if they are given: those of others are passed over unchecked. None
    where its name is of neither format. Raises ValueError as `read_records` does."""
    if name.endswith(".jsonl"):
        with store.open_read(name) as file:
            for number, line in enumerate(file, 1):
                try:
                    if streams is None or from_json(line)["stream"] in streams:
                        yield model.model_validate_json(line)
                except (KeyError, TypeError) as error:
                    raise ValueError(f"{store.url}/{name}, line {number}: no record of a stream") from error
                except ValueError as error:
                    raise ValueError(f"{store.url}/{name}, line {number}: {_said(error)}") from error
    elif name.endswith(".parquet"):
        with store.open_read(name) as file:
            from grpo_tta.adapters.storage.parquet import from_parquet

            try:
                yield from from_parquet(model, file, streams)
            except ValueError as error:
                raise ValueError(f"{store.url}/{name}: {_said(error)}") from error


def _said(error: ValueError) -> str:
    """In a line."""
    return problems(error) if isinstance(error, ValidationError) else str(error)
