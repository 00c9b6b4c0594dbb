"""Parquet for wire models: the Arrow schema follows from the model, nested models and lists included.

Times are UTC timestamps in microseconds; a mapping of strings is a map; a field of free form (any JSON value) is its
JSON text. Equal records give equal bytes for one version of Arrow.
"""

import json
import types
from collections.abc import Collection, Iterator
from datetime import datetime
from functools import cache
from io import BytesIO
from typing import Annotated, Any, BinaryIO, Literal, TypeVar, Union, get_args, get_origin

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import AwareDatetime, BaseModel

from grpo_tta.schemas import WireModel

Record = TypeVar("Record", bound=WireModel)
_TYPES: dict[Any, Any] = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    datetime: pa.timestamp("us", tz="UTC"),
    AwareDatetime: pa.timestamp("us", tz="UTC"),
    dict[str, str]: pa.map_(pa.string(), pa.string()),
}


@cache
def arrow_schema(model: type[BaseModel]) -> Any:
    """The ``pyarrow.Schema`` of a wire model."""
    return pa.schema(_fields(model))


def _fields(model: type[BaseModel]) -> list[Any]:
    return [_field(name, field.annotation) for name, field in model.model_fields.items()]


def _field(name: str, annotation: Any) -> Any:
    arrow = _type(annotation)
    return pa.field(name, pa.string() if arrow is None else arrow, type(None) in _options(annotation))


def _options(annotation: Any) -> list[Any]:
    """The members of a union, ``Annotated`` taken off."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [option for member in get_args(annotation) for option in _options(member)]
    return [annotation]


def _type(annotation: Any) -> Any:
    """The Arrow type, None for a field of free form."""
    options = [option for option in _options(annotation) if option is not type(None)]
    if len(options) > 1:
        return None
    plain = options[0]
    if get_origin(plain) is Literal:
        return _TYPES[type(get_args(plain)[0])]
    if get_origin(plain) is list:
        return pa.list_(_field("item", get_args(plain)[0]))
    if isinstance(plain, type) and get_origin(plain) is None and issubclass(plain, BaseModel):
        return pa.struct(_fields(plain))
    return _TYPES.get(plain)


def _free(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if _type(field.annotation) is None]


def _plain(value: Any) -> Any:
    """Models as mappings of their values. Not `model_dump`, which would write times as text."""
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def to_parquet(model: type[WireModel], records: list[WireModel]) -> bytes:
    """The records as one Parquet file, in the order given."""
    free = _free(model)
    rows = []
    for record in records:
        row = _plain(record)
        for name in free:
            if row[name] is not None:
                row[name] = json.dumps(row[name], ensure_ascii=False)
        rows.append(row)
    out = BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema(model)), out, compression="zstd")
    return out.getvalue()


def from_parquet(model: type[Record], file: BinaryIO, streams: Collection[str] | None = None) -> Iterator[Record]:
    """The records of a file that `to_parquet` wrote, of ``streams`` alone if they are given; a batch of rows in memory
    at a time. Raises ValueError for any other file."""
    try:
        yield from _records(model, file, streams)
    except (pa.ArrowException, OSError, KeyError, TypeError) as error:  # what its library makes of other bytes
        raise ValueError(f"no Parquet file of such records: {' '.join(str(error).split())}") from error


def _records(model: type[Record], file: BinaryIO, streams: Collection[str] | None) -> Iterator[Record]:
    free = _free(model)
    maps = [field.name for field in arrow_schema(model) if pa.types.is_map(field.type)]
    for batch in pq.ParquetFile(file).iter_batches(batch_size=4096):
        if streams is not None:
            batch = batch.filter(pc.is_in(batch["stream"], pa.array(list(streams), pa.string())))
        for row in batch.to_pylist():
            for name in free:
                row[name] = None if row[name] is None else json.loads(row[name])
            for name in maps:
                row[name] = None if row[name] is None else dict(row[name])
            yield model.model_validate(row)
