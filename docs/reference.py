"""Tables of docs/configuration.md, made of the models, their docstrings and flags; the site's hooks use the rows too.

python -m docs.reference            writes them
python -m docs.reference --check    exits 1 where the file has others
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo_tta.methods import METHODS
from grpo_tta.pipeline.cli.flags import all_flags
from grpo_tta.pipeline.config.job import JobConfig
from grpo_tta.settings import GrpoSettings

Field = dict[str, Any]
PAGE = Path(__file__).parent / "configuration.md"
_TABLE = re.compile(r"^\| (?:(method)|key) \|.*\n\|[-|]+\n\| `(\w+)(?:.*\n\|)*.*\n", re.MULTILINE)
_FLAGS = {"run.beam_options": "after `--`", **{key: f"`{flag}`" for flag, key, _ in all_flags()}}
_ORIGIN = re.compile(r"\s*\[(?:ours|paper|peers?|sibling)\b[^]]*\]")
"""Where an item comes from, which docs/method.md tells."""


def keys(node: Field, definitions: dict[str, Field], prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Every leaf of the configuration's JSON schema, by its path; of several kinds of a section those of the first."""
    for name, field in node["properties"].items():
        sections = [option["$ref"] for option in [field, *field.get("anyOf", [])] if "$ref" in option]
        if sections:
            section = definitions[sections[0].rpartition("/")[2]]
            yield from keys(section, definitions, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def type_of(field: Field) -> str:
    """In words."""
    if "$ref" in field:
        name = str(field["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(type_of(option) for option in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{one}`" for one in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of {type_of(field.get('items', {}))}"
    kind = str(field.get("type", "any"))
    words = {"object": "mapping", "boolean": "yes or no", "null": "none", "string": str(field.get("format", "text"))}
    name, low, high = words.get(kind, kind), field.get("minimum"), field.get("maximum")
    if high is not None:
        return f"{name} {low} to {high}"
    return name if low is None else f"{name} >= {low}"


def default_of(field: Field) -> str:
    """As a file has it."""
    return _value(field["default"]) if "default" in field else "needed"


def meaning_of(field: Field) -> str:
    """The docstring as Markdown; a document that it names is a link."""
    text = _ORIGIN.sub("", field.get("description", "").replace("``", "`"))
    text = re.sub(r"`docs/((\w+\.md)(?:#[\w-]+)?)`", r"[\2](\1)", text)
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def _value(value: Any) -> str:
    return "none" if value in (None, [], {}) else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def row(*cells: str) -> str:
    """A line of a table."""
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|\n"


def head(*cells: str) -> str:
    """Its first two."""
    return row(*cells) + "|---" * len(cells) + "|\n"


def tables() -> dict[str, str]:
    """By section of the configuration, and ``methods``: the settings of the others."""
    schema = JobConfig.model_json_schema()
    episodic = {f"method.settings.{name}": value for name, value in asdict(GrpoSettings.episodic()).items()}
    made: dict[str, str] = {}
    for key, field in keys(schema, schema["$defs"]):
        default, also = default_of(field), episodic.get(key, field.get("default"))
        if also != field.get("default") and key != "method.settings.mode":
            default = f"{default}; episodic {_value(also)}"
        section = key.partition(".")[0]
        made.setdefault(section, head("key", "flag", "type", "default", "meaning"))
        made[section] += row(f"`{key}`", _FLAGS.get(key, ""), type_of(field), default, meaning_of(field))
    made["methods"] = head("method", "setting", "type", "default", "meaning")
    for name, entry in METHODS.items():
        settings = schema["$defs"][entry.settings.__name__]["properties"] if name != "grpo" else {}
        for setting, field in settings.items():
            made["methods"] += row(f"`{name}`", f"`{setting}`", type_of(field), default_of(field), meaning_of(field))
    return made


def page() -> str:
    """The document with the tables as they are to be; raises ValueError where one has no place."""
    made, old = tables(), PAGE.read_text()
    there = [_name(table) for table in _TABLE.finditer(old)]
    if sorted(there) != sorted(made):
        raise ValueError(f"docs/{PAGE.name} has tables of {', '.join(there)}, there must be those of {', '.join(made)}")
    return _TABLE.sub(lambda table: made[_name(table)], old)


def _name(table: re.Match[str]) -> str:
    return "methods" if table[1] else table[2]


def main(arguments: list[str]) -> int:
    """Write or check; the exit code."""
    text = page()
    if arguments == ["--check"] and text != PAGE.read_text():
        print(f"docs/{PAGE.name} is not what the models generate: run 'make schemas'", file=sys.stderr)
        return 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
