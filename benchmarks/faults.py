"""The closing table of ``make faults``: what each of its campaigns tried, how many faults it injected, what was lost.

The campaigns add their lines to the file that ``FAULTS`` names, if it names one. ``python -m benchmarks.faults FILE``
prints them, and ends with 1 where anything was lost.
"""

import argparse
import json
import os
import sys
from pathlib import Path

_COLUMNS = ("tried", "faults", "lost")


def note(campaign: str, tried: int, faults: int, lost: int) -> None:
    """Add a campaign's line. ``tried``: inputs, events or runs; ``lost``: those of them that came to a wrong end."""
    if file := os.environ.get("FAULTS"):
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(json.dumps({"campaign": campaign, "tried": tried, "faults": faults, "lost": lost}) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    rows = [json.loads(line) for line in parser.parse_args().file.read_text().splitlines()]
    rows.append({"campaign": "all", **{name: sum(row[name] for row in rows) for name in _COLUMNS}})
    print(f"{'campaign':56} {'tried':>8} {'faults':>8} {'lost':>6}")
    for row in rows:
        print(f"{row['campaign']:56} {row['tried']:8} {row['faults']:8} {row['lost']:6}")
    return 1 if rows[-1]["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
