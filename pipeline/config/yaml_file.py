"""YAML as this package reads it: with nothing in it that two readers may take for two things.

A key that comes twice, an alias (``*name``, which a few lines make into millions of values), a tag (``!!int``), values
nested deeper than 32 levels and the line ends that only YAML knows (NEL, U+2028, U+2029) are refused, with their line.
So are ``010`` and ``1:30``, which are 8 and 90 to some; ``1e-3`` is a number.
"""

import re
from typing import Any

import yaml

_DEEPEST = 32
_LINE_ENDS = {"\x85": "NEL", "\u2028": "U+2028", "\u2029": "U+2029"}


class _Strict(yaml.SafeLoader):
    """Dates are texts."""

    depth = 0
    yaml_implicit_resolvers = {  # noqa: RUF012 - as in its base
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":int", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        """One node, its children included."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(None, None, f"alias *{event.anchor}: write the value out", event.start_mark)
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(None, None, f"tag {event.tag}: write the value without it", event.start_mark)
        if self.depth >= _DEEPEST:
            raise yaml.MarkedYAMLError(None, None, f"nested deeper than {_DEEPEST} levels", event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Of texts to values; a key twice is an error."""
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(None, None, "a key must be a text", key_node.start_mark)
            key = str(key_node.value)
            if key in found:
                raise yaml.MarkedYAMLError(None, None, f"key {key!r} is in it twice", key_node.start_mark)
            found[key] = self.construct_object(value_node, deep=True)
        return found


def _unclear(loader: Any, node: Any) -> None:
    raise yaml.MarkedYAMLError(None, None, f"{node.value} may be a text or a number: quote it", node.start_mark)


for _tag, _pattern, _first in (
    ("!unclear", r"[-+]?0[0-9_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?", "-+0123456789"),
    ("tag:yaml.org,2002:int", r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    ("tag:yaml.org,2002:float", r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("tag:yaml.org,2002:float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    _Strict.add_implicit_resolver(_tag, re.compile(rf"({_pattern})\Z"), _first)
_Strict.add_constructor("!unclear", _unclear)


class _StrictTexts(_Strict):
    """Every scalar is a text: a class may be called ``no``."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - as in its base


def parse_yaml(text: str, *, texts: bool = False) -> Any:
    """What a YAML text holds; ``texts``: all scalars as texts. Raises ValueError, which names the line."""
    for character, name in _LINE_ENDS.items():
        if character in text:
            line = text.count("\n", 0, text.index(character)) + 1
            raise ValueError(f"line {line} holds {name}, which YAML takes for a line's end: leave it out, or use JSON")
    try:
        return yaml.load(text, _StrictTexts if texts else _Strict)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ": ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"line {mark.line + 1}: {what}" if mark else what) from error
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace("\n", " ")) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
