"""The command line, ``grpo-tta``. Exit codes: 0 done, 1 the job or its source failed, 2 bad configuration (nothing was
read or written), 130 after Ctrl-C.

Heavy imports happen inside the commands, so that ``--help`` and a mistyped flag answer at once.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

from grpo_tta.pipeline.cli.console import say, set_up
from grpo_tta.pipeline.cli.parser import make_parser, parsed
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.versions import versions

_MODULES = {
    **dict.fromkeys(("label", "check", "calibrate"), "label"),
    **dict.fromkeys(("status", "reset"), "checkpoint"),
    "dead_letters": "dead_letters",
    "evaluate": "evaluate",
    "report": "report",
    "config": "config",
    "bench": "bench",
    "demo": "demo",
}
"""Where each command lies; only that module is imported."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit code."""
    own, beam_options = _split(sys.argv[1:] if arguments is None else arguments)
    flags = parsed(own)
    set_up(verbose=flags.verbose, quiet=flags.quiet, log_format=flags.log_format)
    return exit_code(lambda: _run(flags, beam_options))


def exit_code(command: Callable[[], int]) -> int:
    """Of a command, whose error is said in a line."""
    try:
        return command()
    except ConfigurationError as error:
        return _failed(2, f"bad configuration: {_said(error)}")
    except BrokenPipeError:  # who read our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (JobError, OSError) as error:
        return _failed(1, f"failed: {_said(error)}")
    except KeyboardInterrupt:
        return _failed(130, "interrupted: what was under way is dropped; run the same command again")
    except Exception as error:
        return _failed(1, f"failed: {_unforeseen(error)}")


def _unforeseen(error: Exception) -> str:
    """An error of a source is told as it is, one of a storage back end's own by its type too."""
    from grpo_tta.adapters.storage.filesystems import MissingBackend
    from grpo_tta.adapters.storage.source import SourceError

    if isinstance(error, SourceError | MissingBackend):
        return _said(error)
    logging.getLogger(__name__).debug("unexpected", exc_info=error)
    return f"{type(error).__name__}: {_said(error)} (--verbose shows where)"


def _failed(code: int, text: str) -> int:
    say(text, logging.ERROR)
    return code


def _said(error: Exception) -> str:
    """Without secrets."""
    from grpo_tta.adapters.storage.filesystems import redacted_text

    return redacted_text(str(error))


def _run(flags: argparse.Namespace, beam_options: list[str]) -> int:
    if flags.command == "version":
        for name, number in versions().items():
            print(f"{name} {number}")
        return 0
    if flags.command == "completion":
        import shtab

        print(shtab.complete(make_parser(everything=True), flags.shell))
        return 0
    name = flags.command.replace("-", "_")
    if name in ("label", "check"):
        _check_lightly(name, flags, beam_options)
    module = import_module(f"grpo_tta.pipeline.cli.{_MODULES[name]}")
    return int(getattr(module, name)(flags, beam_options))


def _check_lightly(name: str, flags: argparse.Namespace, beam_options: list[str]) -> None:
    """What is wrong with the configuration, or a folder that is not there, is said before torch is imported."""
    from grpo_tta.adapters.storage.filesystems import local_path
    from grpo_tta.adapters.storage.source import check_there
    from grpo_tta.pipeline.cli.flags import check_values, job_values
    from grpo_tta.pipeline.config.job import is_kafka, make_config

    config = make_config((check_values if name == "check" else job_values)(flags, beam_options))
    with suppress(ValueError):  # of an address, which is said better where it is used
        checkpoint = local_path(config.checkpoint_url)
        begun = checkpoint is not None and os.path.exists(checkpoint)  # such a job has a listing of its own
        if not begun and not is_kafka(config.source.url):
            check_there(config.source.url)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]
