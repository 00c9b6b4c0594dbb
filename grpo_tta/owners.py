"""Columns of streams and rows of frames: many streams in one forward.

*Columns* are the states of S streams side by side: a state's tensor of any shape is ``[S, ...]`` on the model's device,
its ints are int64 and its floats float64 ``[S]`` on the CPU, where they steer without a copy from the device (so no
tensor of a state may be int64 or float64 without a dimension). States have the same names and shapes. A batch
holds frames of several streams, and ``owner`` int64 ``[B]`` says whose each of them is.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from grpo_tta.types import State, StateValue

Columns = dict[str, Tensor]


def stack(states: Sequence[State], device: torch.device) -> Columns:
    """The states of streams of one method as columns."""
    return {name: _column([state[name] for state in states], device) for name in states[0]}


def unstack(columns: Columns) -> list[State]:
    """The inverse of `stack`, on the CPU. Tensors are rows of shared ones, which are nobody's to modify."""
    values: list[Sequence[StateValue]] = []
    for column in to_cpu(columns).values():
        number = column.ndim == 1 and column.dtype in (torch.int64, torch.float64)
        values.append(column.tolist() if number else column.unbind())
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def to_cpu(columns: Columns) -> Columns:
    """The columns, ``[S, ...]`` of one S, in one copy from the device where they are on one."""
    there = {name: column for name, column in columns.items() if column.device.type != "cpu"}
    return {**columns, **as_columns(as_bytes(there).cpu(), there)} if there else columns


def as_bytes(columns: Columns) -> Tensor:
    """The bytes of columns, uint8 ``[S, ...]``."""
    rows = [column.reshape(len(column), column[0].numel()).contiguous() for column in columns.values()]
    return torch.cat([row.view(torch.uint8) for row in rows], 1)


def as_columns(data: Tensor, like: Columns) -> Columns:
    """The inverse of `as_bytes`, with the names, kinds and shapes of ``like``."""
    widths = [column[0].numel() * column.element_size() for column in like.values()]
    parts = zip(like.items(), torch.split(data, widths, 1), strict=True)
    return {name: part.flatten().clone().view(column.dtype).reshape(column.shape) for (name, column), part in parts}


def chosen(columns: Columns, streams: Sequence[int]) -> Columns:
    """The columns of some of the streams."""
    if len(streams) == len(next(iter(columns.values()))):
        return columns
    index = torch.tensor(streams, dtype=torch.int64)
    return {name: column[index.to(column.device)] for name, column in columns.items()}


def put(columns: Columns, streams: Sequence[int], part: Columns) -> Columns:
    """The columns with those of some of the streams replaced."""
    if len(streams) == len(next(iter(columns.values()))):
        return part
    index = torch.tensor(streams, dtype=torch.int64)
    return {name: column.index_put((index.to(column.device),), part[name]) for name, column in columns.items()}


def where(streams: Tensor, these: Columns, others: Columns) -> Columns:
    """Of each stream the row of ``these`` where ``streams`` ``[S]`` says so, and else that of ``others``."""
    return {
        name: torch.where(streams.to(column.device).view(-1, *[1] * (column.ndim - 1)), column, others[name])
        for name, column in these.items()
    }


def of_owner(column: Tensor, owner: Tensor) -> Tensor:
    """Row b of the result is row ``owner[b]`` of ``column`` ``[S, ...]``; of one stream the column itself, which
    broadcasts."""
    return column if len(column) == 1 else column[owner]


def times(rows: Tensor, matrices: Tensor) -> Tensor:
    """``rows`` ``[B, V, n]`` times ``matrices`` ``[B, n, m]``, or times one of all, ``[1, n, m]``."""
    return rows @ matrices[0] if len(matrices) == 1 else torch.bmm(rows, matrices)


def sums_of(values: Tensor, counts: Tensor) -> Tensor:
    """Sums ``[S, ...]`` over each stream's rows of ``values`` ``[B, ...]``, ``counts`` ``[S]`` of them one stream after
    another: in the same order on every device, and what is not finite stays with its stream."""
    return torch.segment_reduce(values, "sum", lengths=counts.to(values.device), unsafe=True)


class Stretch(NamedTuple):
    """Frames of some streams that cross no border of theirs."""

    streams: list[int]
    counts: list[int]
    """Frames of each of them, at least one."""
    rows: Tensor
    """Where they lie among all frames, int64 ``[B]``: of the streams in order."""


def stretches(counts: Sequence[int], seen: Sequence[int], cadence: int | None) -> Iterator[Stretch]:
    """All frames, ``counts`` of each stream one stream after another, cut where a stream's number of frames, ``seen``
    of which were before, is a multiple of ``cadence``; ``None``: nowhere."""
    starts = [0, *accumulate(counts)]
    done = [0] * len(counts)
    while streams := [stream for stream, count in enumerate(counts) if done[stream] < count]:
        sizes = [counts[s] - done[s] for s in streams]
        if cadence is not None:
            rooms = (cadence - (seen[s] + done[s]) % cadence for s in streams)
            sizes = [min(size, room) for size, room in zip(sizes, rooms, strict=True)]
        first = [starts[s] + done[s] for s in streams]
        rows = torch.cat([torch.arange(at, at + size) for at, size in zip(first, sizes, strict=True)])
        yield Stretch(streams, sizes, rows)
        for stream, size in zip(streams, sizes, strict=True):
            done[stream] += size


def _column(values: Sequence[StateValue], device: torch.device) -> Tensor:
    tensors = [value for value in values if isinstance(value, Tensor)]
    if len(tensors) == len(values):
        return torch.stack(tensors).to(device)
    if len({type(value) for value in values}) != 1:
        raise TypeError(f"a column must be of one type, got {sorted({type(value).__name__ for value in values})}")
    return torch.tensor(values, dtype=torch.int64 if isinstance(values[0], int) else torch.float64)
