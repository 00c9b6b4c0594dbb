"""What every benchmark prints: one line a bar, and the same as JSON."""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Bar:
    """A figure beside what it must reach."""

    name: str
    figure: float
    bar: float
    at_most: bool = False
    """The bar is an upper one."""
    unit: str = ""

    @property
    def reached(self) -> bool:
        """Whether the figure is good enough."""
        return self.figure <= self.bar if self.at_most else self.figure >= self.bar

    def line(self) -> str:
        """For people."""
        sign = "<=" if self.at_most else ">="
        said = "reached" if self.reached else "MISSED"
        return f"{self.name}: {self.figure:.3g}{self.unit} (bar {sign} {self.bar:g}{self.unit}, {said})"


def parser(description: str | None) -> argparse.ArgumentParser:
    """With the flags that all benchmarks share; the first line of ``description`` is shown."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--json", metavar="FILE", type=Path, help="write bars and details here too")
    return made


def upper_bound(events: int) -> float:
    """Upper end of the exact one-sided 95 % interval of a Poisson mean of which ``events`` were counted; 3.0 for 0."""
    low, high = float(events), events + 10 * math.sqrt(events + 1) + 10
    for _ in range(60):
        middle = (low + high) / 2
        fewer = torch.special.gammaincc(torch.tensor(events + 1.0).double(), torch.tensor(middle).double())
        low, high = (middle, high) if fewer > 0.05 else (low, middle)
    return high


def finish(arguments: argparse.Namespace, bars: list[Bar], details: object = None) -> int:
    """Print the bars, write the JSON file; the exit code: 0, or 1 where a bar is missed."""
    for bar in bars:
        print(bar.line(), flush=True)
    if arguments.json is not None:
        rows = [{**asdict(bar), "reached": bar.reached} for bar in bars]
        arguments.json.write_text(json.dumps({"bars": rows, "details": details}, indent=2) + "\n")
    return 0 if all(bar.reached for bar in bars) else 1
