"""BLEU and chrF2++ of translators on contents that were never met, by direction, beside what needs no training.

Models are compared on the same recordings and texts; the interval of a difference draws the same contents for both. A
control has each text stand for another recording of its direction: what a model writes without hearing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allophone.evaluate.result import Result, Signature, tabulate
from allophone.evaluate.scores_page import ScoresPage, Section, save_rows, write_scores
from allophone.evaluate.translation import resource_results, translation_differences, translation_results
from allophone.recipes.written import BEFORE_UNKNOWN, Asked

FORMAT = "allophone-translate-result-1"


def directions_of(asked: Sequence[Asked]) -> dict[str, list[int]]:
    """Places of each direction, and of all directions into one language."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(asked):
        found[f"all to {one.language}"].append(place)
        found[one.direction].append(place)
    return dict(sorted(found.items(), key=lambda item: (not item[0].startswith("all"), item[0])))


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """Texts of one system, of each seed."""

    texts: tuple[tuple[str, ...], ...]
    model_hash: str
    seeds: tuple[int, ...]


def score_texts(asked: Sequence[Asked], written: Mapping[str, Written], data_hash: str) -> dict[str, list[Result]]:
    """BLEU and chrF2++ of every system, by direction and resource group; texts of several seeds are scored together."""
    rows: dict[str, list[Result]] = {name: [] for name in written}
    for direction, places in directions_of(asked).items():
        language = asked[places[0]].language
        for name, system in written.items():
            hypotheses = [texts[place] for texts in system.texts for place in places]
            references = [asked[place].reference for _ in system.texts for place in places]
            groups = [asked[place].content for _ in system.texts for place in places]
            signature = Signature(data_hash=data_hash, model_hash=system.model_hash, normalizer="", seed=0)
            results = translation_results(
                hypotheses, references, language, signature, groups=groups, seeds=system.seeds, resamples=300
            )
            rows[name] += [replace(one, name=f"{one.name}, {direction}") for one in results]
            if direction.startswith("all"):
                sources = [asked[place].row.language for _ in system.texts for place in places]
                results = resource_results(
                    hypotheses, references, language, sources, signature, groups=groups, seeds=system.seeds
                )
                rows[name] += [replace(one, name=f"{one.name} to {language}") for one in results]
    return rows


def score_differences(asked: Sequence[Asked], first: Written, second: Written, data_hash: str) -> list[Result]:
    """Second less first, on the same contents, in every direction."""
    found = []
    for direction, places in directions_of(asked).items():
        many = min(len(first.texts), len(second.texts))
        new, old = ([texts[place] for texts in one.texts[:many] for place in places] for one in (second, first))
        references = [asked[place].reference for _ in range(many) for place in places]
        groups = [asked[place].content for _ in range(many) for place in places]
        signature = Signature(data_hash=data_hash, model_hash=second.model_hash, normalizer="", seed=0)
        language = asked[places[0]].language
        for one in translation_differences(
            new, old, references, language, signature, groups=groups, seeds=second.seeds
        ):
            found.append(replace(one, name=f"{one.name}, {direction}"))
    return found


def shuffled(asked: Sequence[Asked], texts: Sequence[str]) -> tuple[str, ...]:
    """Each text at the place of another recording of its direction."""
    moved = list(texts)
    for direction, places in directions_of(asked).items():
        if not direction.startswith("all"):
            for here, there in zip(places, [*places[1:], places[0]], strict=True):
                moved[here] = texts[there]
    return tuple(moved)


def write_translation(
    rows: Mapping[str, Sequence[Result]],
    asked: Sequence[Asked],
    unheard: Sequence[str],
    made_from: Mapping[str, Any],
    facts: tuple[tuple[str, str], ...],
    examples: tuple[tuple[str, str, str], ...],
    out: Path,
) -> Path:
    """Write ``result.json``, ``scores.md`` and ``report.html``; returns the second.

    Args:
        rows: Results by system; names that begin with ``difference`` hold differences.
        asked: What was to be written.
        unheard: Spoken languages that no translator was trained on; its encoder may have heard them before.
        made_from: Hashes.
        facts: For the page.
        examples: Recording, what was right, what was written.
        out: Folder.
    """
    directions = {name: len(places) for name, places in directions_of(asked).items()}
    save_rows(rows, out, FORMAT, made_from, {"asked": directions, "zero_shot": sorted(unheard)})
    sections = []
    for language in sorted({one.language for one in asked}):
        for metric in ("BLEU", "chrF2++"):
            for kind in ("", "difference"):
                table = {}
                for name, results in rows.items():
                    part = [
                        replace(one, name=_column(one.name, unheard))
                        for one in results
                        if one.name.startswith(f"{metric}, ") and one.name.endswith(f" to {language}")
                    ]
                    if part and name.startswith("difference") == bool(kind):
                        table[name] = part
                if table:
                    title = f"{metric} into {language}{': differences' if kind else ''}"
                    sections.append(Section(title=title, text=TEXTS[kind], table=tabulate(table)))
    lead = (
        f"No content or text that is asked was in the translators' training. {BEFORE_UNKNOWN} Texts were found by beam "
        "search; 95 % intervals over contents. A star marks languages whose speech the translators' training lacked."
    )
    page = ScoresPage(title="Speech translation", lead=lead, facts=facts, sections=tuple(sections), examples=examples)
    return write_scores(page, out)


TEXTS = {
    "": "Spoken languages in columns; high, mid and low are means over languages by CoVoST 2's hours, gap is high less "
    "low. Shuffled: the same texts, each for another recording.",
    "difference": "One model less another on the same contents.",
}


def _column(name: str, unheard: Sequence[str]) -> str:
    spoken = name.partition(", ")[2].partition(" to ")[0]
    return f"{spoken}{' *' if spoken in unheard else ''}"
