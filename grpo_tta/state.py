"""A stream's whole state and its codec: safetensors with a JSON header, versioned, never a pickle.

Equal states encode to equal bytes, and decoding gives back every tensor bit for bit and every number with its type. Of
a large tensor of zeros, as sums of gradients are right after an update, only type and shape are written. The
codec refuses what it did not write; whether a state belongs to this model and method is `check_state`'s to say.
"""

import json
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from grpo_tta.types import State

VERSION = 5
_FORMAT = "grpo-tta-stream-state"
_LENGTH = struct.Struct("<Q")
_SOMEWHERE = array("B", b"\0")
"""Where tensors without an element begin."""
_LARGE = 256
"""Elements from which on a tensor is looked at for zeros."""


class StateError(ValueError):
    """The bytes are not a stream state."""


class StateVersionError(StateError):
    """The bytes are a state of another codec version."""


class ForeignStateError(StateError):
    """The state is of another model, method or settings."""


def tensor_bytes(state: "State", most_rows: Mapping[str, int] | None = None) -> int:
    """Bytes of a state's tensors, those in ``most_rows`` with as many rows; its few numbers are not counted."""
    rows = most_rows or {}
    return sum(
        value.element_size() * rows.get(name, value.shape[0] if value.ndim else 1) * prod(value.shape[1:])
        for name, value in state.items()
        if not isinstance(value, int | float)
    )


@dataclass(frozen=True)
class StreamState:
    """What a stream owns between two slices."""

    method: "State"
    guard: "State"
    counters: dict[str, int]
    """Totals since the stream began; a reset keeps them."""
    position: dict[str, int | str]
    """How far the stream has come: event time in microseconds, coordinate, the window last stepped, the last reset."""
    fingerprint: str
    """Of the classifier."""
    method_name: str
    settings_fingerprint: str


@dataclass(frozen=True)
class StateHeader:
    """What a state says of itself without its tensors."""

    counters: dict[str, int]
    position: dict[str, int | str]
    method: dict[str, int | float]
    """Its numbers."""
    guard_names: frozenset[str]
    """Of its tensors and numbers."""


def _split(prefix: str, state: "State") -> "tuple[dict[str, Tensor], dict[str, int | float]]":
    from torch import Tensor

    tensors = {f"{prefix}/{name}": value.contiguous() for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in state.items() if not isinstance(value, Tensor)}


def encode_state(state: StreamState) -> bytes:
    """The state as bytes. Not-a-number and infinite numbers keep their value."""
    from safetensors import TensorSpec, serialize

    method_tensors, method_numbers = _split("method", state.method)
    guard_tensors, guard_numbers = _split("guard", state.guard)
    header = {
        "format": _FORMAT,
        "version": VERSION,
        "fingerprint": state.fingerprint,
        "method_name": state.method_name,
        "settings_fingerprint": state.settings_fingerprint,
        "counters": state.counters,
        "position": state.position,
        "method": method_numbers,
        "guard": guard_numbers,
    }
    tensors = {name: tensor.cpu() for name, tensor in (method_tensors | guard_tensors).items()}
    blank = {name: tensor for name, tensor in tensors.items() if _is_blank(tensor)}
    header["zeros"] = {name: [_type_name(tensor), list(tensor.shape)] for name, tensor in blank.items()}
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    # safetensors.torch.save takes ten times as long over so many small tensors, and refuses rows of one memory
    specs = {
        name: TensorSpec(
            dtype=_type_name(tensor),
            shape=tensor.shape,
            data_ptr=tensor.data_ptr() or _SOMEWHERE.buffer_info()[0],
            data_len=tensor.nbytes,
        )
        for name, tensor in tensors.items()
        if name not in blank
    }
    return serialize(specs, {"header": text})


def _is_blank(tensor: "Tensor") -> bool:
    """Large, and nothing but zero bits."""
    import torch

    return tensor.numel() >= _LARGE and not bool(tensor.reshape(-1).view(torch.uint8).any())


def _type_name(tensor: "Tensor") -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _header(data: bytes) -> tuple[dict[str, Any], list[str]]:
    """The header, and the names of the tensors."""
    try:
        (length,) = _LENGTH.unpack_from(data)
        outer = json.loads(data[_LENGTH.size : _LENGTH.size + length])
        header = json.loads(outer["__metadata__"]["header"])
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise StateError(f"not a stream state: {len(data)} bytes without a readable header") from error
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise StateError(f"not a stream state: format {header.get('format') if isinstance(header, dict) else header!r}")
    if header.get("version") != VERSION:
        raise StateVersionError(
            f"stream state has codec version {header.get('version')}, this build reads {VERSION}: "
            "continue with the build that wrote it, or start the streams afresh"
        )
    if not isinstance(header.get("zeros"), dict):
        raise StateError("not a stream state: its header does not say which tensors are zeros")
    return header, [*(name for name in outer if name != "__metadata__"), *header["zeros"]]


def read_header(data: bytes) -> StateHeader:
    """What can be said without torch; raises as `decode_state` does."""
    header, names = _header(data)
    own = {name.removeprefix("guard/") for name in names if name.startswith("guard/")}
    return StateHeader(header["counters"], header["position"], header["method"], frozenset({*own, *header["guard"]}))


def decode_state(data: bytes) -> StreamState:
    """The inverse of `encode_state`; raises `StateError` or `StateVersionError`."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    header, _ = _header(data)
    try:
        tensors = load(data)
        for name, (kind, shape) in header["zeros"].items():
            tensors[name] = torch.zeros(shape, dtype=getattr(torch, kind))
    except (SafetensorError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise StateError(f"not a stream state: {error}") from error
    parts: dict[str, State] = {}
    for part in ("method", "guard"):
        numbers: Mapping[str, int | float] = header[part]
        own = {name.removeprefix(f"{part}/"): t for name, t in tensors.items() if name.startswith(f"{part}/")}
        parts[part] = {**numbers, **own}
    return StreamState(
        method=parts["method"],
        guard=parts["guard"],
        counters=header["counters"],
        position=header["position"],
        fingerprint=header["fingerprint"],
        method_name=header["method_name"],
        settings_fingerprint=header["settings_fingerprint"],
    )


def check_state(state: StreamState, fingerprint: str, method_name: str, settings_fingerprint: str) -> None:
    """Raises `ForeignStateError` naming the first thing that differs."""
    pairs = (
        ("model", state.fingerprint, fingerprint),
        ("method", state.method_name, method_name),
        ("settings", state.settings_fingerprint, settings_fingerprint),
    )
    for name, theirs, ours in pairs:
        if theirs != ours:
            raise ForeignStateError(f"the stream's state is of another {name}: it has {theirs}, this job has {ours}")
