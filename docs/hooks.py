"""Hooks of the documentation's site: the README as the front page, and pages of reference made of the code.

Links to files of the tree that are no pages become their names.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from docs.reference import default_of, head, meaning_of, row, type_of
from grpo_tta import schemas
from grpo_tta.beam.live import make_parser as make_live_parser
from grpo_tta.pipeline.cli.parser import COMMANDS, make_parser
from grpo_tta.pipeline.watch.status import Status

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\[([^\]]+)\]\(((?!https?:)[^)#\s]+)(#[^)]*)?\)")
_RECORDS = ("ImageEvent", "LabeledImage", "DriftEvent", "AdaptationLog", "DeadLetter", "MonitorRecord", "Summary")


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
    """The help of every command, with all flags, and of the one for other runners."""
    parser, live = make_parser(everything=True), make_live_parser()
    (chosen,) = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    parts = [f"## {name}\n\n```text\n{chosen[name].format_help()}```\n" for name in COMMANDS]
    parts.append(
        f"## {live.prog}\n\nLabels a topic on [other runners](../deploy.md#other-runners).\n\n"
        f"```text\n{live.format_help()}```\n"
    )
    return "# Commands\n\nOf `grpo-tta COMMAND --help-all`.\n\n" + "\n".join(parts)


def records() -> str:
    """The fields of what goes in and comes out, and of what lies in them."""
    text = "# Records\n\nWhat goes in and comes out. JSON Schemas of it lie in `schemas/json/`.\n"
    found = [kind.model_json_schema() for kind in (*(getattr(schemas, name) for name in _RECORDS), Status)]
    inner = {one["title"]: one for schema in found for one in schema.pop("$defs", {}).values()}
    for schema in (*found, *inner.values()):
        text += f"\n## {schema['title']}\n\n{meaning_of(schema)}\n\n{head('field', 'type', 'default', 'meaning')}"
        for name, field in schema["properties"].items():
            default = "needed" if name in schema.get("required", ()) else default_of(field)
            text += row(f"`{name}`", type_of(field), default, meaning_of(field))
    return text
