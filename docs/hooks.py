"""Hooks of the documentation's site: the README as the front page, and pages of reference made of the code.

Links to files of the tree that are no pages become their names.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from grpo_tta import schemas
from grpo_tta.pipeline.cli.parser import COMMANDS, make_parser
from grpo_tta.schemas.base import WireModel

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\[([^\]]+)\]\(((?!https?:)[^)#\s]+)(#[^)]*)?\)")
_RECORDS = (
    "ImageEvent", "LabeledImage", "DriftEvent", "AdaptationLog", "DeadLetter", "MonitorRecord", "Summary",
    "ClassProbability", "Counters",
)  # fmt: skip


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    pages = {
        "index.md": (ROOT / "README.md").read_text(),
        "decisions/index.md": decisions(),
        "reference/commands.md": commands(),
        "reference/records.md": records(),
    }
    for place, text in pages.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Links as the site has them."""
    here = ROOT if page.file.src_uri == "index.md" else (ROOT / "docs" / page.file.src_uri).parent
    return _LINK.sub(lambda link: _linked(link, here, page.file.src_uri, files), markdown)


def _linked(link: re.Match[str], here: Path, page: str, files: Files) -> str:
    text, target, anchor = link.groups()
    path = (here / target).resolve()
    docs = ROOT / "docs"
    if path == docs / "decisions":
        path = docs / "decisions/index.md"
    if path == ROOT / "README.md":
        path = docs / "index.md"
    inside = path.relative_to(docs).as_posix() if path.is_relative_to(docs) else None
    if inside is None or files.get_file_from_path(inside) is None:
        return text if text.startswith("`") else f"`{text}`" if "/" in text or "." in text else text
    up = "../" * page.count("/")
    return f"[{text}]({up}{inside}{anchor or ''})"


def decisions() -> str:
    """A list, by number."""
    lines = []
    for path in sorted((ROOT / "docs/decisions").glob("0*.md")):
        title = path.read_text().partition("\n")[0].removeprefix("# ")
        lines.append(f"- {path.name[:4]} [{re.sub('^[0-9]+[.] ', '', title)}]({path.name})")
    return "# Decisions\n\nWhy things are as they are.\n\n" + "\n".join(lines) + "\n"


def commands() -> str:
    """The help of every command, with all flags."""
    parser = make_parser(everything=True)
    (chosen,) = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    parts = [f"## {name}\n\n```text\n{chosen[name].format_help()}```\n" for name in COMMANDS]
    return "# Commands\n\nOf `grpo-tta COMMAND --help-all`.\n\n" + "\n".join(parts)


def records() -> str:
    """The fields of what goes in and comes out."""
    parts = [
        "# Records\n\nWhat goes in and comes out, of the models in `schemas/`; JSON Schemas lie in `schemas/json/`.\n"
    ]
    for name in _RECORDS:
        model = getattr(schemas, name)
        parts.append(f"## {name}\n\n{_plain(inspect.getdoc(model) or '')}\n\n" + "\n".join(_rows(model)) + "\n")
    return "\n".join(parts)


def _rows(model: type[WireModel]) -> Iterator[str]:
    schema, meanings = model.model_json_schema(), dict(_meanings(model))
    yield "| field | type | default | meaning |\n|---|---|---|---|"
    for name, field in schema["properties"].items():
        default = "needed" if name in schema.get("required", ()) else _default(field.get("default"))
        yield f"| `{name}` | {_type(field)} | {default} | {meanings.get(name, '')} |"


def _default(value: Any) -> str:
    return "none" if value in (None, [], {}) else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _meanings(model: type[WireModel]) -> Iterator[tuple[str, str]]:
    """The text after each field."""
    for base in reversed(model.__mro__[: model.__mro__.index(WireModel)]):
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for one, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and isinstance(after, ast.Expr):
                yield one.target.id, _plain(ast.literal_eval(after.value))


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("``", "`")).replace("|", "\\|")


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = str(field["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})" if name in _RECORDS else name
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{one}`" for one in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    kind = str(field.get("type", "any"))
    return {"object": "mapping", "string": str(field.get("format", "text"))}.get(kind, kind)
