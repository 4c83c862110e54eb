"""Figures and sound that travel inside a page: SVG from matplotlib, Opus from soundfile, both as ``data:`` addresses.

Figures are drawn on white whatever the page's colors, with shapes and line styles beside colors, and letters as
outlines so that they look the same everywhere.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import soundfile
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from allophone.evaluate.measurements import MEASURES, Change, Verdict
from allophone.evaluate.report_content import Curve
from allophone.evaluate.report_tables import signed
from allophone.frames import SAMPLE_RATE
from allophone.metrics.intervals import Interval

MAX_CLIP_SECONDS = 12.0
"""A player holds no more than this."""
MAX_POINTS = 400
"""A curve is thinned to this many points."""

FULL_COLOR = 20.0
"""Relative change in percent at which the color of a square is full."""

INK, GREY = "#1f2933", "#5b6673"
VERDICT_STYLE: dict[Verdict, tuple[str, str]] = {
    "better": ("^", "#1b6b52"),
    "worse": ("v", "#a1382b"),
    "no clear change": ("o", "#5b6673"),
}
"""Marker and color."""
LINE_STYLES = (("-", "#1d4e79"), ("--", "#a15c00"), (":", "#1b6b52"), ("-.", "#7a3b69"), ((0, (1, 1)), "#1f2933"))
STYLE: dict[Any, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "allophone",
    "font.family": "DejaVu Sans",
    "font.size": 11.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa5b1",
    "xtick.color": GREY,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
WIDTH = 5.2
"""Inches; 500 CSS pixels, still legible at the 360 of a telephone."""


def forest_plot(differences: Sequence[Change], names: Sequence[str]) -> str:
    """Relative changes with their intervals, a line a language; right of zero is better.

    Args:
        differences: Changes of one measure; those without a relative change are left out.
        names: Language of each.

    Returns:
        A ``data:`` address of an SVG; empty where there is nothing to draw.
    """
    drawn = [(one, name) for one, name in zip(differences, names, strict=True) if not math.isnan(one.relative.value)]
    if not drawn:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.15 + 0.44 * len(drawn)), layout="constrained")
        axes = figure.add_subplot()
        for row, (change, _) in enumerate(drawn):
            _draw_change(axes, row, change)
        _frame_forest(axes, drawn)
        return svg_address(figure)


def _draw_change(axes: Axes, row: int, change: Change) -> None:
    marker, color = VERDICT_STYLE[change.verdict]
    relative = change.relative
    axes.plot([relative.low, relative.high], [row, row], color=color, linewidth=2.2, solid_capstyle="butt")
    face = "white" if change.verdict == "no clear change" else color
    axes.plot(relative.value, row, marker=marker, markersize=9, color=color, markerfacecolor=face, markeredgewidth=1.8)
    text = signed(relative.value)
    axes.annotate(
        text,
        (1.02, row),
        xycoords=axes.get_yaxis_transform(),
        va="center",
        fontsize=10.0,
        color=INK,
        annotation_clip=False,
    )


def _frame_forest(axes: Axes, drawn: Sequence[tuple[Change, str]]) -> None:
    reach = max(1.0, *(abs(bound) for change, _ in drawn for bound in (change.relative.low, change.relative.high)))
    axes.set_xlim(-1.12 * reach, 1.12 * reach)
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.set_yticks(range(len(drawn)), [name for _, name in drawn])
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=INK, linewidth=1)
    axes.grid(axis="x", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
    axes.set_xlabel("← worse      relative change in %      better →", fontsize=10.0)
    baseline = MEASURES[drawn[0][0].measure].baseline
    axes.set_title(f"“after” compared with “{baseline}”", fontsize=10.0, color=GREY, loc="left")


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectBar:
    """A line of :func:`effects_plot`."""

    name: str
    improvement: Interval
    holds: bool | None
    """True = better, False = worse, None = the interval contains zero."""


def effects_plot(bars: Sequence[EffectBar], unit: str) -> str:
    """Improvements with their intervals, a line each; right of zero is better.

    Returns:
        A ``data:`` address of an SVG.
    """
    verdicts: dict[bool | None, Verdict] = {True: "better", False: "worse", None: "no clear change"}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.6 * WIDTH, 0.9 + 0.34 * len(bars)), layout="constrained")
        axes = figure.add_subplot()
        for row, bar in enumerate(bars):
            marker, color = VERDICT_STYLE[verdicts[bar.holds]]
            axes.plot([bar.improvement.low, bar.improvement.high], [row, row], color=color, linewidth=2.2)
            face = "white" if bar.holds is None else color
            axes.plot(bar.improvement.value, row, marker=marker, markersize=8, color=color, markerfacecolor=face)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axes.axvline(0, color=INK, linewidth=1)
        axes.grid(axis="x", color="#e4e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel(f"← worse      {unit}      better →", fontsize=10.0)
        return svg_address(figure)


def curves_plot(curves: Sequence[Curve]) -> str:
    """Losses over steps, each line with its own style.

    Returns:
        A ``data:`` address of an SVG; empty where no curve has a finite value.
    """
    points = [(curve.name, *_thin(curve)) for curve in curves]
    points = [(name, steps, values) for name, steps, values in points if len(steps)]
    if not points:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for number, (name, steps, values) in enumerate(points):
            dashes, color = LINE_STYLES[number % len(LINE_STYLES)]
            marker = "o" if len(steps) == 1 else None
            axes.plot(steps, values, label=name, linestyle=dashes, color=color, linewidth=1.8, marker=marker)
        axes.set_xlabel("training step")
        axes.set_ylabel("loss (lower is better)")
        axes.grid(color="#e4e7eb", linewidth=0.8)
        axes.legend(frameon=False, fontsize=10.0, loc="upper right")
        return svg_address(figure)


def _thin(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Finite points, averaged in groups where there are too many to see."""
    steps, values = (np.asarray(part, dtype=np.float64) for part in (curve.steps, curve.values))
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if len(steps) <= MAX_POINTS:
        return steps, values
    groups = [np.array_split(part, MAX_POINTS) for part in (steps, values)]
    return np.array([part.mean() for part in groups[0]]), np.array([part.mean() for part in groups[1]])


def confusion_map(counts: NDArray[np.int64], names: Sequence[str]) -> str:
    """How often each class (down) was taken for each (across), as grey squares with counts.

    Args:
        counts: Shape ``(classes, classes)``.
        names: Of the classes.

    Returns:
        A ``data:`` address of an SVG.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with matplotlib.rc_context(STYLE):
        side = 2.2 + 0.38 * len(names)
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(shares, cmap="Greys", vmin=0.0, vmax=1.0)
        for y, x in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[y, x] > 0.6 else INK
            axes.text(x, y, str(counts[y, x]), ha="center", va="center", fontsize=8.0, color=color)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8.0)
        axes.set_yticks(range(len(names)), names, fontsize=8.0)
        axes.tick_params(length=0)
        axes.set_xlabel("taken for")
        axes.set_ylabel("is")
        return svg_address(figure)


def heat_map(
    values: Sequence[Sequence[float]], texts: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str]
) -> str:
    """Relative changes in percent as colored squares, each with its own text; positive is better.

    Args:
        values: A number a square, by row.
        texts: What stands in it.
        rows: Names from top to bottom.
        columns: Names from left to right.

    Returns:
        A ``data:`` address of an SVG.
    """
    with matplotlib.rc_context(STYLE):
        size = max(WIDTH, 1.9 + 0.95 * len(columns)), 1.5 + 0.5 * len(rows)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(values, cmap="PuOr", vmin=-FULL_COLOR, vmax=FULL_COLOR, aspect="auto")
        for y, line in enumerate(texts):
            for x, text in enumerate(line):
                color = "white" if abs(values[y][x]) > 0.7 * FULL_COLOR else INK
                axes.text(x, y, text, ha="center", va="center", fontsize=9.0, color=color)
        axes.set_xticks(range(len(columns)), columns, rotation=20, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, label="← worse    %    better →", shrink=0.9)
        return svg_address(figure)


def svg_address(figure: Figure) -> str:
    """A figure as SVG in a ``data:`` address."""
    file = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def opus_address(samples: NDArray[np.float32]) -> str:
    """The first :data:`MAX_CLIP_SECONDS` of a waveform, shape ``(S,)`` at 16 kHz, as Opus in a ``data:`` address."""
    played = samples[: round(MAX_CLIP_SECONDS * SAMPLE_RATE)]
    file = io.BytesIO()
    soundfile.write(file, played, SAMPLE_RATE, format="OGG", subtype="OPUS")
    return "data:audio/ogg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def envelope_path(samples: NDArray[np.float32], *, columns: int = 160) -> str:
    """Outline of the loudness over time, as an SVG path in a box of ``columns`` by 40.

    Args:
        samples: Waveform, shape ``(S,)``.
        columns: Width of the box.
    """
    played = samples[: round(MAX_CLIP_SECONDS * SAMPLE_RATE)]
    peaks = np.array([np.abs(part).max() if len(part) else 0.0 for part in np.array_split(played, columns)])
    heights = 1 + 18 * peaks / max(float(peaks.max()), 1e-6)
    return "".join(f"M{x + 0.5} {20 - height:.1f}V{20 + height:.1f}" for x, height in enumerate(heights))
