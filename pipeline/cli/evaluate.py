"""``grpo-tta evaluate``: labels against a truth file."""

import argparse
import json
from typing import Any

from grpo_tta.pipeline.cli.columns import print_columns
from grpo_tta.pipeline.run.evaluate import evaluate as evaluate_labels


def evaluate(flags: argparse.Namespace, beam_options: list[str]) -> int:
    """Print accuracy, gain and calibration."""
    by = [key for key in flags.by.split(",") if key]
    result = evaluate_labels(flags.labels, flags.truth, by)
    if flags.json:
        print(json.dumps(result, indent=2))
        return 0
    _table(by, result)
    for key in ("labels_without_truth", "truth_without_label", "dead_letters"):
        if result[key]:
            print(f"{key.replace('_', ' ')}: {result[key]}")
    return 0


def _table(by: list[str], result: dict[str, Any]) -> None:
    head = [*by, "n", "frozen", "adapted", "gain", "interval", "ece"]
    lines = [head]
    rows = [*result["groups"], {**dict.fromkeys(by, ""), **result["all"]}]
    lines += [[*(row[key] for key in by), *figures(row)] for row in rows]
    print_columns(lines)


def figures(row: dict[str, Any]) -> list[str]:
    """n, frozen, adapted, gain, interval and calibration error of a row of `pipeline.run.evaluate`, as text."""
    if not row["n"]:
        return ["0", "", "", "", "", ""]
    frozen = "accuracy_frozen" in row
    return [
        str(row["n"]),
        f"{100 * row['accuracy_frozen']:.1f}" if frozen else "",
        f"{100 * row['accuracy']:.1f}",
        f"{100 * row['gain']:+.1f}" if frozen else "",
        f"{100 * row['interval'][0]:+.1f} to {100 * row['interval'][1]:+.1f}" if frozen else "",
        f"{row['ece']:.3f}",
    ]
