"""Two voices that say the same prompts: which there are, and how well an encoder finds one from the other."""

from __future__ import annotations

from dataclasses import replace

from allophone.data.corpus import Corpus
from allophone.data.splits import connected
from allophone.data.utterance import Utterance
from allophone.evaluate.forgetting import Spoken, chance_retrieval, choose_layer, measure_retrieval, sample_prompts
from allophone.evaluate.measurements import Measurement, System
from allophone.evaluate.protocol import FrameSource
from allophone.recipes.ledger import LedgerConfig, draw_rows, spoken
from allophone.run.progress import Report, silent
from allophone.text.normalize import normalize

RowPair = tuple[list[Utterance], list[Utterance]]
"""The trained voice, then the other; the same prompts in the same order."""
SpokenPair = tuple[Spoken, Spoken]
"""The same, decoded."""


def voice_pair(corpus: Corpus, config: LedgerConfig, *, everything: bool) -> RowPair | None:
    """Two voices of one language that share prompts, the trained one first; None where there are none.

    Args:
        corpus: One language.
        config: Fewest prompts.
        everything: All shared prompts; otherwise only those that are not in the first voice's training split.
    """
    voices: dict[str, dict[str, Utterance]] = {}
    for row in corpus:
        if row.group is not None and row.speaker is not None:
            voices.setdefault(row.speaker, {}).setdefault(row.group, row)
    trained = {row.speaker for row in corpus if row.split == "train" and row.speaker is not None}
    best: RowPair | None = None
    for first in sorted(trained & set(voices)):
        for second in sorted(set(voices) - trained):
            shared = sorted(set(voices[first]) & set(voices[second]))
            shared = [group for group in shared if everything or voices[first][group].split != "train"]
            if len(shared) >= config.min_pair_prompts and (best is None or len(shared) > len(best[0])):
                best = [voices[first][g] for g in shared], [voices[second][g] for g in shared]
    return best


def spoken_pair(corpus: Corpus, pair: RowPair) -> SpokenPair:
    """Decode two voices with the bandwidth of the narrower one, so that it is no cue and no handicap.

    Prompts with the same words become one group, since nobody could tell them apart: finding any of them is right.
    """
    rates = [int(row.extra.get("original_sample_rate") or row.sample_rate) for rows in pair for row in rows]
    normalized = [replace(row, text=normalize(row.text or "", row.language) or None) for rows in pair for row in rows]
    content = {row.id: rows[0].group for rows in connected(normalized, ("group", "text")) for row in rows}
    first, second = ([replace(row, group=content[row.id]) for row in rows] for rows in pair)
    return spoken(corpus, first, sample_rate=min(rates)), spoken(corpus, second, sample_rate=min(rates))


def choosing_pair(corpus: Corpus, pair: RowPair, config: LedgerConfig) -> SpokenPair:
    """As :func:`spoken_pair`, with no more prompts than a layer is chosen on; the others are let go of."""
    return sample_prompts(*spoken_pair(corpus, pair), config.choosing_prompts)


def retrieval_rows(
    systems: dict[System, FrameSource],
    posteriors: dict[System, FrameSource],
    pairs: dict[str, SpokenPair],
    choosing: dict[str, SpokenPair],
    seed: int,
    report: Report = silent,
) -> list[Measurement]:
    """Same prompt in another voice, for each pair of voices; every system picks its layer on other pairs.

    Args:
        systems: Rows with frames.
        posteriors: Rows with unit posteriors.
        pairs: Language to its two voices, held-out prompts.
        choosing: Language to two voices on which a layer may be chosen; never the language reported on.
        seed: Of the random encoder and the adaptation.
        report: Told how far it is.
    """
    found: list[Measurement] = []
    told, total = report("Same prompt, other voice"), max(1, len(pairs) * len(systems))
    chosen: dict[tuple[System, str], int] = {}
    for number, (language, (first, second)) in enumerate(pairs.items()):
        others = [other for other in choosing if other != language]
        for index, (system, source) in enumerate(systems.items()):
            if others and (system, others[0]) not in chosen:
                chosen[system, others[0]] = choose_layer(source, *choosing[others[0]])
            layer = chosen[system, others[0]] if others else source.layers - 1
            found += measure_retrieval(system, source, layer, first, second, language=language, seed=seed)
            told(number * len(systems) + index + 1, total, {})
        for system, source in posteriors.items():
            found += measure_retrieval(
                system, source, 0, first, second, language=language, seed=seed, measures=("retrieval_posteriors",)
            )
        found += [
            chance_retrieval(one, first, second) for one in found if one.system == "before" and one.language == language
        ]
    return found


def compared_pairs(corpora: dict[str, Corpus], config: LedgerConfig) -> tuple[dict[str, RowPair], dict[str, RowPair]]:
    """Two voices of a language, for an encoder that heard none of them: those compared, and those for choosing layers.

    A layer is chosen on the best pair of another language, so that one pair more than ``most_pairs`` is of use.
    """
    found: dict[str, RowPair] = {}
    for language, corpus in corpora.items():
        pair = voice_pair(corpus, config, everything=True)
        if pair is not None:
            kept = {row.group for row in draw_rows(pair[0], config.most_prompts or len(pair[0]))}
            first, second = ([row for row in side if row.group in kept] for side in pair)
            found[language] = first, second
    order = sorted(found, key=lambda language: (-len(found[language][0]), language))
    most = len(order) if config.most_pairs is None else config.most_pairs
    return {name: found[name] for name in order[:most]}, {name: found[name] for name in order[: most + 1]}
