"""``grpo-tta evaluate``: labels against a truth file."""

import argparse
import json
from pathlib import Path
from typing import Any

from grpo_tta.pipeline.cli.columns import print_columns
from grpo_tta.pipeline.run.evaluate import evaluate as evaluate_labels

_SHOWN = 10


def evaluate(flags: argparse.Namespace, beam_options: list[str]) -> int:
    """Print accuracy, gain and calibration, and what else was asked for."""
    by = [key for key in flags.by.split(",") if key]
    result = evaluate_labels(flags.labels, flags.truth, by)
    if flags.errors:
        Path(flags.errors).write_text("".join(json.dumps(one) + "\n" for one in result["errors"]), encoding="utf-8")
    if flags.json:
        print(json.dumps(result, indent=2))
    else:
        _table(by, result)
        if flags.details:
            _details(result)
        for key in ("labels_without_truth", "truth_without_label", "dead_letters"):
            if result[key]:
                print(f"{key.replace('_', ' ')}: {result[key]}")
    if flags.page:
        _page(flags, result)
    return 0


def _page(flags: argparse.Namespace, result: dict[str, Any]) -> None:
    """The report of the job, with the truth drawn in."""
    from grpo_tta.pipeline.cli.report import print_written, request_of
    from grpo_tta.pipeline.report.report import write_report
    from grpo_tta.pipeline.run.evaluate import truth_series

    told = {key: result[key] for key in ("all", "reliability", "classes", "confusions")}
    print_written(write_report(request_of(flags, flags.labels), truth_series(flags.labels, flags.truth), told))


def _table(by: list[str], result: dict[str, Any]) -> None:
    head = [*by, "n", "frozen", "adapted", "gain", "interval", "ece"]
    lines = [head]
    rows = [*result["groups"], {**dict.fromkeys(by, ""), **result["all"]}]
    lines += [[*(row[key] for key in by), *figures(row)] for row in rows]
    print_columns(lines)


def _details(result: dict[str, Any]) -> None:
    print("\nprobability of the label, and how often it is right")
    lines = [["probability", "n", "mean", "accuracy"]]
    lines += [
        [
            f"{100 * one['low']:.0f} to {100 * one['high']:.0f}",
            str(one["n"]),
            *(_percent(one[key]) for key in ("probability", "accuracy")),
        ]
        for one in result["reliability"]
    ]
    print_columns(lines)
    print(f"\nmost often taken for one another ({_of(result['confusions'])})")
    lines = [["shown", "said", "n"]]
    print_columns(lines + [[one["label"], one["said"], str(one["n"])] for one in result["confusions"][:_SHOWN]])
    print(f"\nclasses with the lowest recall ({_of(result['classes'])})")
    lines = [["class", "n", "recall", "precision", "frozen recall"]]
    lines += [
        [one["label"], str(one["n"]), *(_percent(one[key]) for key in ("recall", "precision", "recall_frozen"))]
        for one in result["classes"][:_SHOWN]
    ]
    print_columns(lines)
    print(f"\nwrong labels: {len(result['errors'])} (--errors FILE lists them, --json holds all of the above)")


def _of(rows: list[Any]) -> str:
    return f"{min(_SHOWN, len(rows))} of {len(rows)}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def figures(row: dict[str, Any]) -> list[str]:
    """n, frozen, adapted, gain, interval and calibration error of a row of `pipeline.run.evaluate`, as text: percent
    and points."""
    if not row["n"]:
        return ["0", "", "", "", "", ""]
    frozen = "accuracy_frozen" in row
    return [
        str(row["n"]),
        f"{100 * row['accuracy_frozen']:.1f}" if frozen else "",
        f"{100 * row['accuracy']:.1f}",
        f"{100 * row['gain']:+.1f}" if frozen else "",
        f"{100 * row['interval'][0]:+.1f} to {100 * row['interval'][1]:+.1f}" if frozen else "",
        f"{100 * row['ece']:.1f}",
    ]
