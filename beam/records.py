"""Beam coders of output records, registered where this module is imported: their JSON."""

from typing import Any

from apache_beam import coders

from grpo_tta.adapters.rows import KINDS
from grpo_tta.schemas import WireModel


def _coder_of(model: type[WireModel]) -> type[coders.Coder]:
    def encode(_: Any, value: WireModel) -> bytes:
        return value.model_dump_json(exclude_none=True).encode()

    def decode(_: Any, encoded: bytes) -> WireModel:
        return model.model_validate_json(encoded)

    methods = {"encode": encode, "decode": decode, "is_deterministic": lambda _: True}
    return type(f"{model.__name__}Coder", (coders.Coder,), {**methods, "__module__": __name__})


for _model in KINDS.values():
    _kind = _coder_of(_model)
    globals()[_kind.__name__] = _kind
    coders.registry.register_coder(_model, _kind)
