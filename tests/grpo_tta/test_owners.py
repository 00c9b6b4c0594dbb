"""Columns of streams."""

import pytest
import torch

from grpo_tta.owners import as_bytes, as_columns

KINDS = (torch.bool, torch.int8, torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.float64)


@pytest.mark.parametrize("streams", [1, 3])
def test_columns_of_all_kinds_and_shapes_travel_as_bytes(streams: int) -> None:
    generator = torch.Generator().manual_seed(0)
    columns = {
        f"{kind}-{shape}": (100 * torch.rand(streams, *shape, generator=generator) - 20).abs().to(kind)
        for kind in KINDS
        for shape in ((), (5,), (2, 3), (0, 4), ())
    }
    back = as_columns(as_bytes(columns), columns)
    assert back.keys() == columns.keys()
    for name, column in columns.items():
        assert back[name].dtype == column.dtype
        assert torch.equal(back[name], column)
