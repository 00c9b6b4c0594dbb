"""The parser: commands with their flags, general flags that may stand anywhere, what may have been meant.

``--help`` of the commands that label shows the flags that most calls need, ``--help-all`` all, in groups.
"""

import argparse
import difflib
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import version as installed_version
from typing import Any

from rich.text import Text
from shtab import FILE, SUPPORTED_SHELLS

from grpo_tta.pipeline.cli.bench import add_bench_flags
from grpo_tta.pipeline.cli.console import errors, results
from grpo_tta.pipeline.cli.flags import add_job_flags, add_some_flags
from grpo_tta.pipeline.cli.report import add_page_flags, add_report_flags

STAGES = ("source", "decode_event", "policy", "fetch", "decode_image", "step", "sink")
_PATHS = ("FILE", "DIR", "OUT", "URL", "TAG|PATH")
"""Of flags whose metavar begins so a shell completes paths."""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Breaks no line inside of ``hf-hub:``."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class _Parser(argparse.ArgumentParser):
    """Takes no beginning of a flag for the flag, and says which one may have been meant."""

    commands: tuple[str, ...] = ()
    """Each has a parser of its own, that knows its flags."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "allow_abbrev": False})
        self.color = False  # Python's own, of 3.14 and later

    def _print_message(self, message: str, file: Any = None) -> None:
        """Usage, help and what is wrong with the line: headings and flags stand out where there is a terminal."""
        text = Text(message.removesuffix("\n"))
        text.highlight_regex(r"(?m)^\w[\w ,-]*:", "bold")
        text.highlight_regex(r"(?<![\w-])--?\w[\w-]*", "cyan")
        (results if file is sys.stdout else errors).print(text)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Knows all it is given, or ends the program: what is mistyped is said before what is missing."""
        for text in () if self.commands else args:
            flag = text.partition("=")[0]
            if flag.startswith("--") and flag not in self._option_string_actions:
                self.error(f"unrecognized argument {text!r}{_near(flag, self._option_string_actions)}")
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized argument {unknown[0]!r}")
        return known, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse's, with what may have been meant."""
        if action.choices is not None and value not in action.choices:
            near = _near(str(value), action.choices)
            choices = ", ".join(map(str, action.choices))
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}{near} (choose from {choices})")


def _near(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {near[0]}?" if near else ""


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Of what stands before ``--``; ends the program where it cannot be, and after the help."""
    everything = "--help-all" in arguments
    general = argparse.ArgumentParser(prog="grpo-tta", add_help=False, allow_abbrev=False)
    add_general_flags(general, default=True)
    found, rest = general.parse_known_args(arguments)
    parser = make_parser(everything=everything)
    if rest and not rest[0].startswith("-") and rest[0] not in COMMANDS:
        parser.error(f"no command {rest[0]!r}{_near(rest[0], COMMANDS) or ': there are ' + ', '.join(COMMANDS)}")
    return parser.parse_args(rest, found)


def add_general_flags(parser: argparse.ArgumentParser, *, default: bool) -> None:
    """The flags of every command. ``default``: where one is missing there is its default, else nothing."""
    missing: dict[str, Any] = {} if default else {"default": argparse.SUPPRESS}
    group = parser.add_argument_group("general flags, anywhere on the line")
    loud = group.add_mutually_exclusive_group()
    loud.add_argument("--quiet", action="store_true", help="no progress: results, warnings and errors", **missing)
    loud.add_argument("--verbose", action="store_true", help="log everything, with tracebacks", **missing)
    group.add_argument(
        "--log-format", choices=["text", "json"], help="json: log and progress as an object a line",
        **{"default": "text", **missing},
    )  # fmt: skip


def make_parser(*, everything: bool = False) -> argparse.ArgumentParser:
    """Of the whole command line. ``everything``: the help shows every flag."""
    parser = _Parser(
        prog="grpo-tta",
        description="Label drifting image streams with a CLIP that adapts itself.",
        epilog="grpo-tta COMMAND --help shows its flags. Options after -- go to Beam.",
    )
    parser.add_argument("--version", action="version", version=installed_version("grpo-tta"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parser.commands = tuple(COMMANDS)
    add_general_flags(parser, default=False)
    for name, (about, add_flags) in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
        add_flags(command, everything)
        add_general_flags(command, default=False)
        _complete_paths(command)
    return parser


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action.metavar, str) and action.metavar.startswith(_PATHS):
            action.complete = FILE  # type: ignore[attr-defined]


def _helped(parser: argparse.ArgumentParser, everything: bool, usage: str, example: str) -> None:
    """Of a command with many flags: a short line of usage, an example, and where the other flags are."""
    parser.usage = f"{parser.prog} {usage}"
    parser.formatter_class = _Help
    parser.add_argument("--help-all", action="help", help="show all flags, in groups")
    more = "" if everything else f"All flags, in groups: {parser.prog} --help-all\n"
    parser.epilog = f"{more}Example: {example}"


def _add_label(parser: argparse.ArgumentParser, everything: bool) -> None:
    add_job_flags(parser, label=True, everything=everything)
    _helped(
        parser,
        everything,
        "--source URL --out URL [FLAG ...] [-- BEAM_OPTION ...]",
        "grpo-tta label --source s3://bucket/cams --out out \\\n"
        "           --labels classes.txt --model ViT-B-32 --pretrained weights.safetensors",
    )


def _add_check(parser: argparse.ArgumentParser, everything: bool) -> None:
    add_job_flags(parser, label=True, everything=everything)
    _helped(parser, everything, "--source URL [FLAG ...]", "grpo-tta check --source photos --labels classes.txt")


def _add_config(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("what", choices=["show", "schema"])
    add_job_flags(parser, label=True, everything=everything)
    _helped(parser, everything, "{show,schema} [FLAG ...]", "grpo-tta config show --config job.yaml --method tent")


def _add_calibrate(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("--reference", metavar="FILE", help="safetensors file to write")
    parser.add_argument("--accuracy", metavar="FILE", help="JSON file to write: for accuracy estimates; with --truth")
    parser.add_argument("--truth", metavar="FILE.jsonl", help='lines {"id":, "label":} of at least 500 normal images')
    parser.add_argument("--max-images", type=int, default=3200, metavar="N", help="default: 3200")
    add_job_flags(parser, label=False, everything=everything)
    add_some_flags(parser, ("--method", "--mode", "--tune", "--seed"))
    _helped(
        parser,
        everything,
        "--source URL [--reference FILE] [--accuracy FILE --truth FILE.jsonl] [FLAG ...]",
        "grpo-tta calibrate --source normal --reference clean.safetensors",
    )


def _add_evaluate(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("--labels", required=True, metavar="OUT", help="the --out of a job")
    parser.add_argument("--truth", required=True, metavar="FILE.jsonl", help='lines {"id":, "label":, "segment":?}')
    parser.add_argument("--by", default="", metavar="stream,segment", help="a row for each")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--details", action="store_true", help="also calibration, confusions and the worst classes")
    parser.add_argument("--errors", metavar="FILE.jsonl", help="write the images with a wrong label, the surest first")
    add_page_flags(parser, page_default="none is written")


def _add_demo(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("what", nargs="?", choices=["feed"], help="feed: only write the feed")
    parser.add_argument("--out", default="out/demo", metavar="DIR", help="default: out/demo")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--images", type=int, default=None, metavar="N", help="images in the feed (default: 10800)")
    parser.add_argument("--fresh", action="store_true", help="throw an earlier demo away first")


def _add_status(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="URL", help="the job's checkpoint")
    parser.add_argument("--json", action="store_true", help="print JSON, which holds more")


def _add_reset(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="URL", help="the job's checkpoint")
    parser.add_argument("--stream", required=True, metavar="NAME")


def _add_letters(parser: argparse.ArgumentParser, everything: bool) -> None:
    add = parser.add_argument
    add("what", choices=["replay"])
    add("--from", dest="come_from", required=True, metavar="URL", help="the --out of a job, or kafka://HOST:PORT/TOPIC")
    add("--source", required=True, metavar="kafka://HOST:PORT/TOPIC", help="where the events came from")
    add("--config", metavar="FILE.yaml", help="a job's: its kafka.security, instead of the environment's")
    add(
        "--stage",
        choices=STAGES,
        help="only dead letters of this stage (default: all but those that cannot pass: source, decode_event, policy, "
        "decode_image of inline images)",
    )
    add("--stream", metavar="NAME", help="only dead letters of this stream")
    add("--dry-run", action="store_true", help="look for the events and send nothing")


def _add_completion(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("shell", choices=SUPPORTED_SHELLS)
    parser.formatter_class = _Help
    parser.epilog = (
        "bash:  grpo-tta completion bash > ~/.local/share/bash-completion/completions/grpo-tta\n"
        "zsh:   grpo-tta completion zsh > ~/.zfunc/_grpo-tta, with ~/.zfunc on fpath\n"
        "fish:  grpo-tta completion fish > ~/.config/fish/completions/grpo-tta.fish"
    )


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser, bool], None]]] = {
    "label": ("label a folder, bucket, manifest or Kafka topic; run again to resume", _add_label),
    "check": ("check configuration and access, count streams, label ten images, write nothing", _add_check),
    "report": (
        "write a page about the streams: states, accuracy, pictures",
        lambda parser, _: add_report_flags(parser),
    ),
    "status": ("where a job stands: partitions, lag, owners, streams, resets", _add_status),
    "evaluate": ("compare labels with a truth file", _add_evaluate),
    "calibrate": ("make the drift guard's reference, or an accuracy calibration", _add_calibrate),
    "reset": ("set a stream back to the frozen encoder before its next image", _add_reset),
    "dead-letters": ("send the events of dead letters to their topic again", _add_letters),
    "config": ("show the effective configuration, or its JSON schema", _add_config),
    "demo": ("write a drifting feed, label it, print the table, write the page", _add_demo),
    "bench": ("compare methods over streams of labelled images", lambda parser, _: add_bench_flags(parser)),
    "completion": ("print a completion script for your shell", _add_completion),
    "version": ("versions of the package and what it stands on", lambda parser, _: None),
}
"""What each is, and what adds its flags; the help lists them in this order."""
