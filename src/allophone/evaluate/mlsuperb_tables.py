"""Scores of ML-SUPERB as Markdown, with what a reader needs to believe them: sets, hashes, normalizers, intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from allophone.evaluate.mlsuperb import SuperbScores
from allophone.evaluate.mlsuperb_answers import Measured, ScriptRates
from allophone.evaluate.mlsuperb_challenge import COLUMN_DEFECT, WORST, ChallengeScores
from allophone.evaluate.mlsuperb_reference import ACCURACIES
from allophone.metrics.intervals import Interval


def superb_markdown(scores: SuperbScores) -> str:
    """SUPERB_s with its reference set and hash, then the seven columns."""
    lines = [
        f"SUPERB_s {scores.score.value:.1f} between FBANK (0) and the best (1000) of reference set {scores.reference}.",
        f"Source of the set: {scores.reference.source}. Texts compared by {scores.normalizer}.",
        "",
        *_rows((*scores.columns, scores.score)),
        *_notes(scores.warnings),
    ]
    return "\n".join(lines) + "\n"


def superb_rows_markdown(rows: Mapping[str, SuperbScores]) -> str:
    """Every measure of several rows, and which of them the first is above: better, with intervals that do not meet.

    Intervals are those over utterances (and seeds).
    """
    names = list(rows)
    lines = ["| measure | " + " | ".join(names) + f" | {names[0]} above |", "|---|" + "---:|" * len(names) + "---|"]
    for measures in zip(*((*one.columns, one.score) for one in rows.values()), strict=True):
        first, others = measures[0], dict(zip(names[1:], measures[1:], strict=True))
        higher = first.name in ACCURACIES or first.name == "SUPERB_s"
        above = [
            name
            for name, one in others.items()
            if (first.utterances.low > one.utterances.high if higher else first.utterances.high < one.utterances.low)
        ]
        told = "all" if len(above) == len(others) else ", ".join(above) or "none"
        cells = " | ".join(_interval(one.utterances) for one in measures)
        lines.append(f"| {first.name} {'↑' if higher else '↓'} | {cells} | {told} |")
    return "\n".join(lines) + "\n"


def challenge_markdown(scores: ChallengeScores, scripts: Sequence[ScriptRates] = ()) -> str:
    """The measures of 2.0 and the challenge, the worst languages by name, and raw beside normalized rates by script."""
    lines = [
        f"ML-SUPERB 2.0, texts compared by {scores.normalizer}. {COLUMN_DEFECT}",
        "",
        *_rows(scores.measures),
        "",
        f"The {min(WORST, len(scores.worst))} worst languages:",
        "",
        "| language | CER, % | utterances |",
        "|---|---:|---:|",
        *(
            f"| {one.name} ({one.language}) | {_interval(one.rate)} | {one.rate.n}{' (few)' if one.thin else ''} |"
            for one in scores.worst
        ),
    ]
    if scripts:
        lines += ["", scripts_markdown(scripts).rstrip()]
    return "\n".join([*lines, *_notes(scores.warnings)]) + "\n"


def scripts_markdown(scripts: Sequence[ScriptRates]) -> str:
    """Character errors of each script, raw beside normalized."""
    normalizers = list(scripts[0].rates)
    heads = " | ".join("raw" if name == "none" else name for name in normalizers)
    lines = [f"| script | languages | utterances | {heads} |", "|---|---|---:" + "|---:" * len(normalizers) + "|"]
    for one in scripts:
        rates = " | ".join("–" if math.isnan(rate) else f"{rate:.1f}" for rate in one.rates.values())
        lines.append(f"| {one.script} | {', '.join(one.languages)} | {one.utterances} | {rates} |")
    return "\n".join(lines) + "\n"


def _rows(measures: Sequence[Measured]) -> list[str]:
    return [
        "| measure | value | 95 %, other utterances | 95 %, other languages |",
        "|---|---:|---:|---:|",
        *(
            f"| {one.name} | {one.value:.1f} | {_bounds(one.utterances)} | {_bounds(one.languages)} |"
            for one in measures
        ),
    ]


def _bounds(interval: Interval) -> str:
    return f"{interval.low:.1f} to {interval.high:.1f}"


def _interval(interval: Interval) -> str:
    return f"{interval.value:.1f} ({_bounds(interval)})"


def _notes(warnings: Sequence[str]) -> list[str]:
    return ["", *(f"Warning: {one}" for one in warnings)] if warnings else []
