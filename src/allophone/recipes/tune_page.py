"""From the scores of a tuning to its tables and its page: which recordings can be heard on it, and what is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allophone.data.corpus import Corpus
from allophone.data.labelled import LabelledParts
from allophone.data.utterance import Utterance
from allophone.evaluate.report_media import opus_address
from allophone.evaluate.tuning_page import (
    Crossing,
    Pair,
    TuningPage,
    confusions,
    crossings,
    worst_first,
    write_tuning_page,
)
from allophone.metrics.intervals import Interval
from allophone.recipes.tune_scores import READERS, Heard, SystemScore, mistakes
from allophone.run.tuning import TuneConfig

MOST_PAIRS = 12
"""Recordings with a player in each list."""


def tuning_page(
    systems: dict[str, list[SystemScore]],
    cells: dict[str, dict[str, Interval]],
    heard: Heard,
    label: str,
    compared: tuple[str, str],
    facts: tuple[tuple[str, str], ...],
    path: Path,
) -> Path:
    """Write the page of a tuning.

    Args:
        systems: Scores by system, one a seed; the first seed is shown.
        cells: Percent right by system and reader.
        heard: What was probed.
        label: The column.
        compared: System whose space is shown first, and the one that is looked at closely.
        facts: What was done.
        path: The file.
    """
    shown = compared[1]
    score, parts = systems[shown][0], heard.parts
    assert score.linear is not None and score.embedded is not None
    train, _, test = score.embedded
    told = mistakes(score, parts)
    assert told is not None
    spaces = {name: systems[name][0].embedded for name in dict.fromkeys(compared)}
    said = [
        (f"{count} times: {_name(heard, one.test, True)} was taken for {_name(heard, one.train, False)}", one)
        for count, one in confusions(score.linear.predicted, train, test, MOST_PAIRS)
    ]
    near = [
        (f"{_name(heard, one.test, True)}, nearest to {_name(heard, one.train, False)} (cosine {one.cosine:.2f})", one)
        for one in crossings(train, test, MOST_PAIRS)
    ]
    page = TuningPage(
        label=label,
        names=parts.names,
        facts=facts,
        readers=READERS,
        cells=cells,
        shown=shown,
        counts=np.array(told["confusion"]),
        by_class=worst_first(told["classes"], told["recall"]),
        by_speaker=worst_first(list(told["by_speaker"]), list(told["by_speaker"].values())),
        confused=tuple(_pair(heard, what, one) for what, one in said),
        crossed=tuple(_pair(heard, what, one) for what, one in near),
        spaces=tuple((name, embedded[2]) for name, embedded in spaces.items() if embedded is not None),
    )
    return write_tuning_page(page, path)


def tuning_facts(
    model: str, corpus: Corpus, parts: LabelledParts, config: TuneConfig, seeds: Sequence[int], over: str
) -> tuple[tuple[str, str], ...]:
    """What was done, label and value."""
    return (
        ("Model", model),
        ("Corpus", f"{corpus.name}, {corpus.hash[:12]}: {' '.join(parts.notes)}"),
        ("Tuned on", f"{len(parts.train)} recordings, {config.training}, {config.steps} steps"),
        ("Seeds", ", ".join(map(str, seeds))),
        ("Intervals", f"95 %, over {over}"),
    )


def markdown(
    cells: dict[str, dict[str, Interval]],
    systems: dict[str, list[SystemScore]],
    points: Sequence[dict[str, Any]],
    parts: LabelledParts,
    over: str,
) -> str:
    """Tables of accuracy and of geometry, and what picked each stopping point."""
    lines = [f"{len(parts.names)} classes, {len(parts.test)} test utterances. {' '.join(parts.notes)}", ""]
    lines += [
        f"Percent right on test, 95 % intervals over {over}.",
        "",
        f"| | {' | '.join(READERS)} |",
        "|---" * 5 + "|",
    ]
    for name, row in cells.items():
        values = [f"{one.value:.1f} [{one.low:.1f}, {one.high:.1f}]" for one in row.values()]
        lines.append(f"| {name} | {' | '.join(values)} |")
    shown = ("mean_cosine", "isoscore", "effective_rank", "uniformity", "gap", "fisher_ratio", "silhouette")
    lines += [
        "",
        "Geometry of test embeddings, as they are (first seed).",
        "",
        f"| | {' | '.join(shown)} | top-1 share |",
    ]
    lines.append("|---" * (len(shown) + 2) + "|")
    for name, scores in systems.items():
        if scores[0].geometry is not None:
            one = scores[0].geometry["raw"]
            values = [f"{getattr(one, measure):.3f}" for measure in shown]
            lines.append(f"| {name} | {' | '.join(values)} | {one.top_shares[0]:.3f} |")
    lines += ["", *(f"- {point['method']}, seed {point['seed']}: {point['note']}" for point in points), ""]
    return "\n".join(lines)


def _name(heard: Heard, row: int, of_test: bool) -> str:
    part = heard.parts.test if of_test else heard.parts.train
    return heard.parts.names[heard.parts.classes[part.utterances[row].id][0]]


def _pair(heard: Heard, said: str, one: Crossing) -> Pair:
    return Pair(
        said=said,
        heard=opus_address(heard.test[one.test].numpy()),
        heard_is=_described(heard.parts.test.utterances[one.test]),
        other=opus_address(heard.train[one.train].numpy()),
        other_is=_described(heard.parts.train.utterances[one.train]),
    )


def _described(row: Utterance) -> str:
    return ", ".join(filter(None, (row.id, row.speaker, None if row.text is None else f"“{row.text}”")))
