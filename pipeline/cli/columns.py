"""Tables on a terminal."""

from grpo_tta.pipeline.printable import printable


def print_columns(lines: list[list[str]]) -> None:
    """A table, columns as wide as their widest cell."""
    lines = [[printable(text) for text in line] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
