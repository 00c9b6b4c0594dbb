"""Tables on a terminal."""

from collections.abc import Callable

from rich.text import Text

from grpo_tta.pipeline.cli.console import results
from grpo_tta.pipeline.printable import printable


def print_columns(
    lines: list[list[str]], *, style: Callable[[list[str], int], str] = lambda line, column: "", narrow: str = ""
) -> None:
    """A table: its head, then its lines, columns as wide as their widest cell. Colours where stdout is a terminal.

    ``style``: of a cell, given its line and column. ``narrow``: a column whose cells lose their middle where the table
    would be wider than the terminal.
    """
    head, *rows = [[printable(text) for text in line] for line in lines]
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    if narrow and results.is_terminal:
        at = head.index(narrow)
        widths[at] = max(len(narrow), min(widths[at], results.width - sum(widths) - 2 * (len(widths) - 1) + widths[at]))
    _print(head, widths, lambda line, column: "bold")
    for line in rows:
        _print(line, widths, style)


def _print(line: list[str], widths: list[int], style: Callable[[list[str], int], str]) -> None:
    text = Text()
    for column, (cell, width) in enumerate(zip(line, widths, strict=True)):
        text.append(_fitted(cell, width).ljust(width), style(line, column))
        text.append("  ")
    text.rstrip()
    results.print(text)


def _fitted(cell: str, width: int) -> str:
    """With its middle left out where it is too long: hosts and cameras often differ in their ends alone."""
    if len(cell) <= width:
        return cell
    end = (width - 1) // 2
    return f"{cell[: width - 1 - end]}\N{HORIZONTAL ELLIPSIS}{cell[len(cell) - end :]}"
