"""The rules that settings are held to, with one wording for all of them: field, rule, value; and what is
raised for a model that cannot be used."""

import math
from collections.abc import Mapping, Sequence


class ModelError(ValueError):
    """A model, its weights, its classes or its prompts cannot be used; the message names the value and the way out."""


def check_fields(
    settings: object,
    *,
    choices: Mapping[str, Sequence[str]] | None = None,
    at_least: Mapping[str, int] | None = None,
    positive: Sequence[str] = (),
    not_negative: Sequence[str] = (),
    shares: Sequence[str] = (),
    optional_positive: Sequence[str] = (),
) -> None:
    """Raise ``ValueError`` for the first field of ``settings`` that breaks its rule.

    ``shares`` are at most 1 (their lower end is theirs to state as positive or not negative); ``optional_positive``
    may be ``None``.
    """
    for name, allowed in (choices or {}).items():
        if getattr(settings, name) not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(settings, name)!r}")
    for name, least in (at_least or {}).items():
        if getattr(settings, name) < least:
            raise ValueError(f"{name} must be >= {least}, got {getattr(settings, name)}")
    _check_numbers(settings, positive, not_negative, shares)
    for name in optional_positive:
        value = getattr(settings, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be > 0, got {value}")


def _check_numbers(
    settings: object, positive: Sequence[str], not_negative: Sequence[str], shares: Sequence[str]
) -> None:
    for name in (*positive, *not_negative):
        if not math.isfinite(getattr(settings, name)):
            raise ValueError(f"{name} must be finite, got {getattr(settings, name)}")
    for name in positive:
        if getattr(settings, name) <= 0:
            raise ValueError(f"{name} must be > 0, got {getattr(settings, name)}")
    for name in not_negative:
        if getattr(settings, name) < 0:
            raise ValueError(f"{name} must be >= 0, got {getattr(settings, name)}")
    for name in shares:
        if getattr(settings, name) > 1:
            raise ValueError(f"{name} must be <= 1, got {getattr(settings, name)}")
