"""Sealed files: bytes under a head that says what they were, so that a damaged or foreign file is not taken for one.

The head is one line of JSON: the format of the whole checkpoint, a digest, what the file came ``after``, and how long
its body is. The digest is of the name, of ``after`` and of the body, and the head follows from these alone: a bit that
flips anywhere, a file that was cut, or one that lies under another's name does not fit. ``after`` is the digest of
another sealed file, the one that this was written on top of; so files of two jobs do not fit each other either.

A body is JSON, or an index of what follows it (`pipeline.checkpoint.packs`).
"""

import hashlib
import json
from typing import Any, NamedTuple

from grpo_tta.adapters.storage.objects import ObjectStore, StoreError

FORMAT = "grpo-tta/2"
"""A build reads what was written under its own format. One that changes what any file of a checkpoint means has
another."""
NOTHING = "0" * 32
_HEAD = '{{"format":"{}","digest":"{}","after":"{}","length":{:12d}}}\n'
HEAD_BYTES = len(_HEAD.format(FORMAT, NOTHING, NOTHING, 0))
_WAY_OUT = (
    "finish or drain the job with the version that wrote it, or start a new one with another --out and --checkpoint"
)


class SealError(StoreError):
    """The file is not what was written under its name; the message names it."""


class Sealed(NamedTuple):
    """What a sealed file holds."""

    body: bytes
    digest: str
    after: str

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def digest_of(sealed: bytes) -> str:
    """Of a file that was sealed here."""
    return sealed[len(FORMAT) + 23 : len(FORMAT) + 23 + len(NOTHING)].decode()


def seal(name: str, body: bytes, after: str = NOTHING) -> bytes:
    """The file that holds ``body`` under ``name``."""
    digest = hashlib.sha256(b"\0".join([FORMAT.encode(), name.encode(), after.encode(), body]))
    return _HEAD.format(FORMAT, digest.hexdigest()[: len(NOTHING)], after, len(body)).encode() + body


def seal_json(name: str, value: Any) -> bytes:
    """As `seal`, with a value that JSON can hold."""
    return seal(name, json.dumps(value, separators=(",", ":")).encode())


def unseal(name: str, data: bytes, where: str) -> Sealed:
    """The inverse of `seal`; raises `SealError`. ``where``: the URL of the store, for the message."""
    body = data[HEAD_BYTES:]
    head = _fields(data[:HEAD_BYTES])
    if head is None or seal(name, body, head["after"]) != data:
        raise SealError(f"checkpoint file {name} is damaged or of another version ({where}): {_why(data, head)}")
    return Sealed(body, head["digest"], head["after"])


def body_length(head: bytes) -> int:
    """Of the first `HEAD_BYTES` of a file, how long its body is; 0 where that is no head, which `unseal` refuses."""
    fields = _fields(head)
    return 0 if fields is None else max(int(fields["length"]), 0)


def read_sealed(store: ObjectStore, name: str) -> Any:
    """The JSON of a sealed file. Raises `SealError`, and FileNotFoundError."""
    return unseal(name, store.read(name), store.url).json()


def _fields(head: bytes) -> dict[str, Any] | None:
    try:
        fields = json.loads(head)
        return fields if fields["after"].isascii() and isinstance(fields["length"], int) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _why(data: bytes, head: dict[str, Any] | None) -> str:
    if head is not None and head.get("format") != FORMAT:
        return f"its format is {head.get('format')!r}, this version reads {FORMAT!r}; {_WAY_OUT}"
    if _is_of_the_first_format(data):
        return f"it was written by a version before {FORMAT!r}; {_WAY_OUT}"
    return (
        "what it holds is not what was written; put it back from a copy, or start a new job with another --out and "
        "--checkpoint"
    )


def _is_of_the_first_format(data: bytes) -> bool:
    """Which had plain JSON and packs of its own."""
    if data.startswith(b"GTTAPK01"):
        return True
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False
