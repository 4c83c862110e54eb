"""BLEU and chrF2++ of translators on contents that were never met, by direction, beside what needs no training.

Models are compared on the same recordings and texts; the interval of a difference draws the same contents for both. A
control has each text stand for another recording of its direction: what a model writes without hearing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from allophone.config import from_dict, to_dict
from allophone.data.corpus import Corpus
from allophone.data.loader import WaveformCache
from allophone.evaluate.result import Result, Signature, tabulate
from allophone.evaluate.scores_page import ScoresPage, Section, write_scores
from allophone.evaluate.text_retrieval import held_out
from allophone.evaluate.translation import translation_differences, translation_results
from allophone.models.speech_translator import SpeechTranslator
from allophone.models.token_decoder import SearchConfig
from allophone.recipes.text_baselines import Asked
from allophone.run.progress import Report
from allophone.run.texts import texts_of_row
from allophone.seeding import numpy_generator

FORMAT, RESULT = "allophone-translate-result-1", "result.json"
BATCH = 16
LEAST = 20
"""Contents that a direction needs."""


def translation_pool(corpus: Corpus, languages: Sequence[str], most: int) -> list[Asked]:
    """Held-out recordings with texts in other languages than their own, at most so many in each direction."""
    for split, known in (("test", (None, "train", "dev")), ("dev", (None, "train"))):
        rows = held_out([row for row in corpus if row.split == split], [row for row in corpus if row.split in known])
        directions: dict[tuple[str, str], list[Asked]] = defaultdict(list)
        for row in rows:
            for language, text in texts_of_row(row, languages).items():
                if language != row.language:
                    directions[row.language, language].append(Asked(row=row, language=language, reference=text))
        found = []
        for pair, items in sorted(directions.items()):
            if len({one.content for one in items}) >= LEAST:
                order = numpy_generator(0, "translation", *pair).permutation(len(items))[:most]
                found += [items[place] for place in sorted(order)]
        if found:
            return found
    return []


def translated(
    model: SpeechTranslator, asked: Sequence[Asked], cache: WaveformCache[Any], search: SearchConfig, report: Any
) -> list[str]:
    """What a translator writes, in order; recordings of similar length together."""
    order = sorted(range(len(asked)), key=lambda place: asked[place].row.duration_seconds)
    texts = [""] * len(asked)
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        waveforms = [cache.get(asked[place].row) for place in places]
        padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        found = model.generate(padded, lengths, [asked[place].language for place in places], search)
        for place, one in zip(places, found, strict=True):
            texts[place] = one.text
        report(min(start + BATCH, len(order)), len(order), {})
    return texts


def directions_of(asked: Sequence[Asked]) -> dict[str, list[int]]:
    """Places of each direction, and of all directions into one language."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(asked):
        found[f"all to {one.language}"].append(place)
        found[f"{one.row.language} to {one.language}"].append(place)
    return dict(sorted(found.items(), key=lambda item: (not item[0].startswith("all"), item[0])))


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """Texts of one system, of each seed."""

    texts: tuple[tuple[str, ...], ...]
    model_hash: str
    seeds: tuple[int, ...]


def score_texts(asked: Sequence[Asked], written: Mapping[str, Written], data_hash: str) -> dict[str, list[Result]]:
    """BLEU and chrF2++ of every system in every direction; texts of several seeds are scored together."""
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
    return rows


def score_differences(
    asked: Sequence[Asked], first: Written, second: Written, data_hash: str
) -> list[Result]:
    """Second less first, on the same contents, in every direction."""
    found = []
    for direction, places in directions_of(asked).items():
        many = min(len(first.texts), len(second.texts))
        sides = [[texts[place] for texts in one.texts[:many] for place in places] for one in (second, first)]
        references = [asked[place].reference for _ in range(many) for place in places]
        groups = [asked[place].content for _ in range(many) for place in places]
        signature = Signature(data_hash=data_hash, model_hash=second.model_hash, normalizer="", seed=0)
        language = asked[places[0]].language
        for one in translation_differences(*sides, references, language, signature, groups=groups, seeds=second.seeds):
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


def saved_scores(out: Path, made_from: Mapping[str, Any]) -> dict[str, list[Result]] | None:
    """The scores that lie there, where they were made from the same."""
    if not (out / RESULT).exists():
        return None
    result = json.loads((out / RESULT).read_text(encoding="utf-8"))
    if result.get("format") != FORMAT or result.get("made_from") != made_from:
        return None
    return {name: [from_dict(Result, one) for one in found] for name, found in result["rows"].items()}


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
        unheard: Spoken languages that no model heard in training.
        made_from: Hashes.
        facts: For the page.
        examples: Recording, what was right, what was written.
        out: Folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    values = {
        "format": FORMAT,
        "made_from": made_from,
        "asked": {name: len(places) for name, places in directions_of(asked).items()},
        "zero_shot": sorted(unheard),
        "rows": {name: [to_dict(one) for one in results] for name, results in rows.items()},
    }
    (out / RESULT).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
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
        "No content or text that is asked was in training; texts were found by beam search. 95 % intervals over contents. "
        "A star marks languages whose speech was never heard in training."
    )
    page = ScoresPage(
        title="Speech translation", lead=lead, facts=facts, sections=tuple(sections), examples=examples
    )
    return write_scores(page, out)


TEXTS = {
    "": "Spoken languages in columns. Shuffled: the same texts, each for another recording.",
    "difference": "One model less another on the same contents.",
}


def _column(name: str, unheard: Sequence[str]) -> str:
    spoken = name.partition(", ")[2].partition(" to ")[0]
    return f"{spoken}{' *' if spoken in unheard else ''}"
