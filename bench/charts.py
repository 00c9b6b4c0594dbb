"""Two pictures of a comparison as SVG, drawn here so that nothing but a browser is needed: accuracy against cost, and
accuracy along a stream with its changes, resets and detections."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from grpo_tta.bench.rows import Outcome, Row
from grpo_tta.bench.tables import trailing

_COLOURS = (
    "#1b6ca8",
    "#d1495b",
    "#2e8b57",
    "#8e5ea2",
    "#e08e0b",
    "#008891",
    "#7d5a50",
    "#5b5b5b",
    "#b5179e",
    "#6a994e",
)
_WIDTH, _HEIGHT = 900, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 180, 40, 60
_POINTS = 400


@dataclass(frozen=True)
class _Axes:
    """From values to places in the picture."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        low, high = self.x
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def up(self, value: float) -> float:
        low, high = self.y
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def frame(self, title: str, x_label: str, y_label: str) -> list[str]:
        bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        parts = [
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
            _text(_LEFT, 22, title, size=15),
            f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="black"/>',
            _text((_LEFT + right) / 2, _HEIGHT - 12, x_label, anchor="middle"),
            f'<g transform="rotate(-90 16 {_HEIGHT / 2})">{_text(16, _HEIGHT / 2, y_label, anchor="middle")}</g>',
        ]
        parts += [_text(self.across(value), bottom + 18, f"{value:g}", anchor="middle") for value in _ticks(*self.x)]
        for value in _ticks(*self.y):
            parts.append(f'<path d="M{_LEFT} {self.up(value):.1f}H{right}" stroke="#e5e5e5"/>')
            parts.append(_text(_LEFT - 6, self.up(value) + 4, f"{value:g}", anchor="end"))
        return parts


def front(entries: Sequence[dict[str, Any]], title: str) -> str:
    """Accuracy against forward-equivalents an image, a point for each entry of `tables.means`, and the line of those
    that no cheaper one beats."""
    accuracies = [100 * entry["accuracy"] for entry in entries]
    frozen = 100 * float(np.mean([entry["accuracy_frozen"] for entry in entries]))
    costs = [entry["cost"] for entry in entries]
    axes = _Axes((0.0, max(costs) * 1.08 + 0.5), _around([*accuracies, frozen]))
    parts = axes.frame(title, "forward-equivalents an image", "accuracy, %")
    parts.append(_rule(axes, frozen, "frozen"))
    best: list[tuple[float, float]] = []
    for cost, accuracy in sorted(zip(costs, accuracies, strict=True), key=lambda point: (point[0], -point[1])):
        if not best or accuracy > best[-1][1]:
            best.append((cost, accuracy))
    parts.append(_path(axes, best, "#999999", dashed=True))
    named: list[tuple[float, float]] = []
    for number, (entry, accuracy) in enumerate(zip(entries, accuracies, strict=True)):
        x, y = axes.across(entry["cost"]), axes.up(accuracy)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{_colour(number)}"/>')
        named.append((x, _free(x, y, named)))
        parts.append(_text(x + 8, named[-1][1] + 4, entry["method"]))
    return _picture(parts)


def along(
    runs: Sequence[tuple[Row, Outcome]], changes: Sequence[int], names: Sequence[str], title: str, window: int
) -> str:
    """Accuracy of the last ``window`` frames along one stream, a line for each run and a dashed one for the frozen
    encoder. Grey lines are true changes with the condition that begins there (``names``, the first one's included),
    triangles resets, circles detections of the run of their colour."""
    frames = len(runs[0][1].labels)
    lines = [(row["method"], *trailing(outcome, window)) for row, outcome in runs]
    since = min(window, frames) - 1
    shown = np.concatenate([np.concatenate([own[since:], frozen[since:]]) for _, own, frozen in lines])
    axes = _Axes((0.0, float(frames)), _around([float(shown.min()), float(shown.max())]))
    parts = axes.frame(title, "frame", f"accuracy of the last {window} frames, %")
    for start, name in zip([0, *changes], names, strict=True):
        x = axes.across(start)
        if start:
            parts.append(f'<path d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#bbbbbb"/>')
        if len(names) <= 12:
            parts.append(_text(x + 3, _TOP - 4, name, size=10))
    places = np.unique(np.linspace(since, frames - 1, _POINTS).astype(int))
    parts.append(_path(axes, [(place, lines[0][2][place]) for place in places], "#777777", dashed=True))
    parts.append(_legend(0, "#777777", "frozen"))
    for number, ((row, outcome), (name, own, _)) in enumerate(zip(runs, lines, strict=True)):
        colour = _colour(number)
        parts.append(_path(axes, [(place, own[place]) for place in places], colour))
        parts.append(_legend(number + 1, colour, name))
        low = _HEIGHT - _BOTTOM - 6 - 7 * number
        for frame, _ in row["reset_frames"]:
            x = axes.across(frame)
            parts.append(f'<path d="M{x - 4:.1f} {low}h8l-4 -7z" fill="{colour}"/>')
        for frame in outcome.detections:
            parts.append(f'<circle cx="{axes.across(frame):.1f}" cy="{low - 3}" r="6" fill="none" stroke="{colour}"/>')
    return _picture(parts)


def _free(x: float, y: float, taken: Sequence[tuple[float, float]]) -> float:
    """The nearest height below ``y`` at which a name covers none of those at ``taken``."""
    while any(abs(x - other_x) < 90 and abs(y - other_y) < 12 for other_x, other_y in taken):
        y += 4
    return y


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _around(values: Iterable[float]) -> tuple[float, float]:
    values = list(values)
    margin = max(1.0, 0.08 * (max(values) - min(values)))
    return min(values) - margin, max(values) + margin


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** np.floor(np.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 8)
    return [float(round(value, 10)) for value in np.arange(np.ceil(low / step) * step, high, step)]


def _rule(axes: _Axes, value: float, name: str) -> str:
    y = axes.up(value)
    line = f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#777777" stroke-dasharray="5 4"/>'
    return line + _text(_WIDTH - _RIGHT + 6, y + 4, name)


def _path(axes: _Axes, points: Iterable[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
    places = " L".join(f"{axes.across(x):.1f} {axes.up(y):.1f}" for x, y in points)
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="M{places}" fill="none" stroke="{colour}" stroke-width="1.5"{dashes}/>'


def _legend(number: int, colour: str, name: str) -> str:
    x, y = _WIDTH - _RIGHT + 12, _TOP + 18 * number
    return f'<path d="M{x} {y}h18" stroke="{colour}" stroke-width="3"/>' + _text(x + 24, y + 4, name)


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'


def _picture(parts: Iterable[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, *parts, "</svg>"]) + "\n"
