"""``grpo-tta status`` and ``reset``: asked of a checkpoint, without a model."""

import argparse

from grpo_tta.pipeline.cli.columns import print_columns
from grpo_tta.pipeline.printable import printable
from grpo_tta.pipeline.watch.status import Status, read_status, request_reset


def status(flags: argparse.Namespace, beam_options: list[str]) -> int:
    """Print partitions and streams."""
    found = read_status(flags.checkpoint)
    if flags.json:
        print(found.to_json())
        return 0
    _print_status(found)
    return 0


def _print_status(found: Status) -> None:
    """Within 80 columns, but for names that are long; the rest is in the JSON."""
    lines = [["partition", "position", "lag", "labels", "dead letters", "owner"]]
    lines += [
        [one.partition, _text(one.position), _text(one.lag), str(one.labels), str(one.dead_letters), _text(one.owner)]
        for one in found.partitions
    ]
    print_columns(lines, narrow="owner", style=_style_of_partition)
    lines = [["stream", "partition", "frames", "updates", "newest", "guard", "last reset"]]
    lines += [
        [
            one.stream, one.partition, str(one.frames), str(one.updates), _moment(one.newest),
            "warm-up" if one.warming_up else "on", f"{_moment(one.last_reset)} {one.last_reset_cause or ''}".rstrip(),
        ]
        for one in found.streams
    ]  # fmt: skip
    print()
    print_columns(lines, narrow="stream", style=_style_of_stream)


def _style_of_partition(line: list[str], column: int) -> str:
    return "yellow" if column == 4 and line[column] != "0" else ""


def _style_of_stream(line: list[str], column: int) -> str:
    return "yellow" if (column == 5 and line[column] != "on") or (column == 6 and line[column] != "-") else ""


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _moment(time: str | None) -> str:
    """Month, day and minute, in UTC."""
    return "-" if time is None else time[5:16].replace("T", " ")


def reset(flags: argparse.Namespace, beam_options: list[str]) -> int:
    """Ask for a stream's reset."""
    asked = request_reset(flags.checkpoint, flags.stream)
    print(printable(f"stream {flags.stream} is reset before its next image, in {', '.join(asked)}"))
    return 0
