"""The command line, ``grpo-tta``. Exit codes: 0 done, 1 the job or its source failed, 2 bad configuration (nothing was
read or written), 130 after Ctrl-C.

Heavy imports happen inside the commands, so that ``--help`` and a mistyped flag answer at once.
"""

import argparse
import difflib
import logging
import os
import sys
from importlib import import_module
from importlib.metadata import version as installed_version
from typing import Any

from grpo_tta.pipeline.cli.logs import JsonLines, TextLines
from grpo_tta.pipeline.printable import printable_lines
from grpo_tta.pipeline.versions import versions

_MODULES = {
    **dict.fromkeys(("label", "check", "calibrate"), "label"),
    **dict.fromkeys(("status", "reset", "dead_letters"), "checkpoint"),
    "evaluate": "evaluate",
    "report": "report",
    "config": "config",
    "bench": "bench",
    "demo": "demo",
}
"""Where each command lies; only that module is imported."""
STAGES = ("source", "decode_event", "policy", "fetch", "decode_image", "step", "sink")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    own, beam_options = _split(given)
    parsed = _parser().parse_args(own)
    _quiet(verbose=parsed.verbose, log_format=parsed.log_format)
    from grpo_tta.adapters.storage.filesystems import MissingBackend
    from grpo_tta.adapters.storage.source import SourceError
    from grpo_tta.pipeline.errors import ConfigurationError, JobError

    try:
        return _run(parsed, beam_options)
    except ConfigurationError as error:
        print(f"bad configuration: {_said(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who read our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (JobError, SourceError, MissingBackend, OSError) as error:
        print(f"failed: {_said(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the running slice was dropped; run the same command again to go on", file=sys.stderr)
        return 130
    except Exception as error:  # storage back ends raise errors of their own
        logging.getLogger(__name__).debug("unexpected", exc_info=True)
        print(f"failed: {type(error).__name__}: {_said(error)} (--verbose shows where)", file=sys.stderr)
        return 1


def _said(error: Exception) -> str:
    """Without secrets, and nothing that a terminal would obey."""
    from grpo_tta.adapters.storage.filesystems import redacted_text

    return printable_lines(redacted_text(str(error)))


def _run(parsed: argparse.Namespace, beam_options: list[str]) -> int:
    if parsed.command == "version":
        for name, number in versions().items():
            print(f"{name} {number}")
        return 0
    name = parsed.command.replace("-", "_")
    if name in ("label", "check"):  # what is wrong with the configuration is said before torch is imported
        from grpo_tta.pipeline.cli.flags import job_values
        from grpo_tta.pipeline.config.job import make_config

        make_config(job_values(parsed, beam_options))
    module = import_module(f"grpo_tta.pipeline.cli.{_MODULES[name]}")
    return int(getattr(module, name)(parsed, beam_options))


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _quiet(*, verbose: bool, log_format: str) -> None:
    lines = logging.StreamHandler()
    lines.setFormatter(JsonLines() if log_format == "json" else TextLines())
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[lines])
    logging.getLogger("grpo_tta").setLevel(logging.DEBUG if verbose else logging.INFO)
    if not verbose:
        for name in ("apache_beam", "kafka.net.selector"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # Tracebacks of connections that ended: what came of it is in our own message, or it passed.
        logging.getLogger("kafka.net.transport").setLevel(logging.CRITICAL)
        logging.getLogger().addFilter(lambda record: "apitools" not in record.getMessage())
        for handler in logging.getLogger().handlers:
            handler.addFilter(lambda record: "apitools" not in record.getMessage())


class _Parser(argparse.ArgumentParser):
    """Takes no beginning of a flag for the flag, and says which one may have been meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "allow_abbrev": False})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Knows all it is given, or ends the program."""
        known, unknown = super().parse_known_args(args, namespace)
        for text in unknown:
            flag = text.partition("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions, n=1) if flag.startswith("-") else []
            self.error(f"unrecognized argument {text!r}" + (f", did you mean {near[0]}?" if near else ""))
        return known, unknown


def _parser() -> argparse.ArgumentParser:
    from grpo_tta.pipeline.cli.bench import add_bench_flags
    from grpo_tta.pipeline.cli.flags import add_job_flags, add_some_flags
    from grpo_tta.pipeline.cli.report import add_page_flags, add_report_flags

    parser = _Parser(
        prog="grpo-tta",
        description="Label drifting image streams with a CLIP that adapts itself.",
        epilog="Options after -- go to Beam. Example: grpo-tta label --source 's3://bucket/cams' --out out --labels "
        "classes.txt --model ViT-B-32 --pretrained weights.safetensors",
    )
    parser.add_argument("--verbose", action="store_true", help="log everything, with tracebacks")
    parser.add_argument("--log-format", choices=["text", "json"], default="text", help="json: an object a line")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    label = commands.add_parser("label", help="label a folder, bucket, manifest or Kafka topic; run again to resume")
    add_job_flags(label, label=True)

    evaluate = commands.add_parser("evaluate", help="compare labels with a truth file")
    evaluate.add_argument("--labels", required=True, metavar="OUT", help="the --out of a job")
    evaluate.add_argument("--truth", required=True, metavar="FILE.jsonl", help='lines {"id":, "label":, "segment":?}')
    evaluate.add_argument("--by", default="", metavar="stream,segment", help="a row for each")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.add_argument("--details", action="store_true", help="also calibration, confusions and the worst classes")
    evaluate.add_argument(
        "--errors", metavar="FILE.jsonl", help="write the images with a wrong label, the surest first"
    )
    add_page_flags(evaluate, page_default="none is written")

    add_report_flags(commands.add_parser("report", help="write a page about the streams: states, accuracy, pictures"))

    add_bench_flags(commands.add_parser("bench", help="compare methods over streams of labelled images"))

    calibrate = commands.add_parser("calibrate", help="make the drift guard's reference, or an accuracy calibration")
    add_job_flags(calibrate, label=False)
    calibrate.add_argument("--reference", metavar="FILE", help="safetensors file to write")
    calibrate.add_argument(
        "--accuracy", metavar="FILE", help="JSON file to write: for accuracy estimates; with --truth"
    )
    calibrate.add_argument(
        "--truth", metavar="FILE.jsonl", help='lines {"id":, "label":} of at least 500 normal images'
    )
    calibrate.add_argument("--max-images", type=int, default=3200, metavar="N", help="default: 3200")
    add_some_flags(calibrate, ("--method", "--mode", "--tune", "--seed"))

    check = commands.add_parser("check", help="check configuration and access, label ten images, write nothing")
    add_job_flags(check, label=True)

    config = commands.add_parser("config", help="show the effective configuration, or its JSON schema")
    config.add_argument("what", choices=["show", "schema"])
    add_job_flags(config, label=True)

    demo = commands.add_parser("demo", help="write a drifting feed, label it, print the table, write the page")
    demo.add_argument("what", nargs="?", choices=["feed"], help="feed: only write the feed")
    demo.add_argument("--out", default="out/demo", metavar="DIR", help="default: out/demo")
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    demo.add_argument("--images", type=int, default=None, metavar="N", help="images in the feed")
    demo.add_argument("--fresh", action="store_true", help="throw an earlier demo away first")

    status = commands.add_parser("status", help="where a job stands: partitions, lag, owners, streams, resets")
    status.add_argument("--checkpoint", required=True, metavar="URL", help="the job's checkpoint")
    status.add_argument("--json", action="store_true", help="print JSON")

    reset = commands.add_parser("reset", help="set a stream back to the frozen encoder at the next slice")
    reset.add_argument("--checkpoint", required=True, metavar="URL", help="the job's checkpoint")
    reset.add_argument("--stream", required=True, metavar="NAME")

    letters = commands.add_parser("dead-letters", help="send the events of dead letters to their topic again")
    letters.add_argument("what", choices=["replay"])
    letters.add_argument(
        "--from", dest="come_from", required=True, metavar="URL", help="the --out of a job, or kafka://HOST:PORT/TOPIC"
    )
    letters.add_argument(
        "--source", required=True, metavar="kafka://HOST:PORT/TOPIC", help="where the events came from"
    )
    letters.add_argument(
        "--config", metavar="FILE.yaml", help="a job's: its kafka.security, instead of the environment's"
    )
    letters.add_argument(
        "--stage",
        choices=STAGES,
        help="only dead letters of this stage (default: all but those that cannot pass: source, decode_event, policy, "
        "decode_image of inline images)",
    )
    letters.add_argument("--stream", metavar="NAME", help="only dead letters of this stream")
    letters.add_argument("--dry-run", action="store_true", help="look for the events and send nothing")

    commands.add_parser("version", help="versions of the package and what it stands on")
    parser.add_argument("--version", action="version", version=installed_version("grpo-tta"))
    return parser
