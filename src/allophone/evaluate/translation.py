"""Scores of translations and transcripts, with intervals over groups and everything that makes two numbers comparable.

Translations: BLEU with the tokenizer of the target language, and chrF2++. Transcripts: character and word errors of the
texts as they are, and beside them of the texts normalized for their script, because either alone misleads.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from allophone.evaluate.result import Result, Signature, result_from_interval
from allophone.metrics.error_rate import character_error_counts, word_error_counts
from allophone.metrics.intervals import bootstrap, bootstrap_statistic
from allophone.metrics.translation import BleuCounts, ChrfCounts, bleu, bleu_counts, chrf, chrf_counts
from allophone.text.normalize import normalize

RAW, NORMALIZED = "raw", "normalized"


def translation_results(
    hypotheses: Sequence[str],
    references: Sequence[str],
    language: str,
    signature: Signature,
    *,
    groups: Sequence[Hashable] | None = None,
    seeds: Sequence[int] = (),
    resamples: int = 1000,
) -> list[Result]:
    """BLEU and chrF2++ of texts in one language.

    Args:
        hypotheses: What a system wrote.
        references: What it should have written, one each.
        language: Of both, ``fra_Latn``.
        signature: Of data and model; its normalizer is replaced by sacreBLEU's signature of each score.
        groups: Labels of texts that are drawn together, such as their content.
        seeds: Of the trainings behind the texts.
        resamples: Of the interval.

    Raises:
        DataError: There are no texts, or not as many references, groups and hypotheses.
        ConfigError: sacreBLEU or the tokenizer of the language is not installed.
    """
    found = []
    parts = (
        ("BLEU", bleu(hypotheses, references, language), bleu_counts(hypotheses, references, language)),
        ("chrF2++", chrf(hypotheses, references), chrf_counts(hypotheses, references)),
    )
    for name, score, counts in parts:
        interval = bootstrap_statistic(
            len(references), counts.score, groups=groups, resamples=resamples, seed=signature.seed
        )
        own = replace(signature, normalizer=score.signature)
        found.append(result_from_interval(name, interval, unit="", higher_is_better=True, signature=own, seeds=seeds))
    return found


def translation_differences(
    first: Sequence[str],
    second: Sequence[str],
    references: Sequence[str],
    language: str,
    signature: Signature,
    *,
    groups: Sequence[Hashable] | None = None,
    seeds: Sequence[int] = (),
    resamples: int = 300,
) -> list[Result]:
    """BLEU and chrF2++ of ``first`` less those of ``second``, both on the same drawn texts.

    Args:
        first: What one system wrote.
        second: What the other wrote.
        references: What they should have written, one each.
        language: Of all, ``fra_Latn``.
        signature: Of data and model; its normalizer is replaced by the name of the score.
        groups: Labels of texts that are drawn together, such as their content.
        seeds: Of the trainings behind the texts.
        resamples: Of the interval.

    Raises:
        DataError: There are no texts, or not as many of each.
        ConfigError: sacreBLEU or the tokenizer of the language is not installed.
    """
    found = []
    sides: dict[str, Sequence[BleuCounts | ChrfCounts]] = {
        "BLEU": [bleu_counts(texts, references, language) for texts in (first, second)],
        "chrF2++": [chrf_counts(texts, references) for texts in (first, second)],
    }
    for name, (one, other) in sides.items():
        interval = bootstrap_statistic(
            len(references),
            partial(_difference, one, other),
            groups=groups,
            resamples=resamples,
            seed=signature.seed,
        )
        own = replace(signature, normalizer=f"difference of {name}")
        found.append(result_from_interval(name, interval, unit="", higher_is_better=True, signature=own, seeds=seeds))
    return found


def _difference(first: BleuCounts | ChrfCounts, second: BleuCounts | ChrfCounts, rows: NDArray[np.int64]) -> float:
    return first.score(rows) - second.score(rows)


def transcript_results(
    hypotheses: Sequence[str],
    references: Sequence[str],
    language: str,
    signature: Signature,
    *,
    groups: Sequence[Hashable] | None = None,
    seeds: Sequence[int] = (),
) -> list[Result]:
    """Character and word error rates of texts in one language, raw and normalized for the script.

    Args:
        hypotheses: What was heard.
        references: What was said, one each.
        language: Of both, ``fra_Latn``.
        signature: Of data and model; its normalizer is replaced by the one used.
        groups: Labels of texts that are drawn together, such as their speaker.
        seeds: Of the trainings behind the texts.

    Raises:
        DataError: All references are empty, or there are not as many of each.
    """
    found = []
    for kind in (RAW, NORMALIZED):
        texts = [list(hypotheses), list(references)]
        if kind == NORMALIZED:
            texts = [[normalize(text, language) for text in part] for part in texts]
        for name, count in (("CER", character_error_counts), ("WER", word_error_counts)):
            counts = count(texts[1], texts[0])
            interval = bootstrap(counts.errors, counts.lengths, groups=groups, seed=signature.seed).scaled(100.0)
            own = replace(signature, normalizer="none" if kind == RAW else f"allophone {language}")
            found.append(
                result_from_interval(
                    f"{name} {kind}", interval, unit="%", higher_is_better=False, signature=own, seeds=seeds
                )
            )
    return found


COVOST_GROUPS: dict[str, tuple[str, ...]] = {
    "high": ("fra_Latn", "deu_Latn", "spa_Latn", "cat_Latn"),
    "mid": ("pes_Arab", "ita_Latn", "rus_Cyrl", "por_Latn", "cmn_Hans"),
    "low": (
        *("tur_Latn", "arb_Arab", "est_Latn", "khk_Cyrl", "nld_Latn", "swe_Latn"),
        *("lvs_Latn", "slv_Latn", "tam_Taml", "jpn_Jpan", "ind_Latn", "cym_Latn"),
    ),
}
"""Source languages of CoVoST 2 by hours of training data; 4, 5 and 12 of them reproduce the published averages."""


def resource_results(
    hypotheses: Sequence[str],
    references: Sequence[str],
    language: str,
    sources: Sequence[str],
    signature: Signature,
    *,
    groups: Sequence[Hashable] | None = None,
    seeds: Sequence[int] = (),
    resamples: int = 300,
) -> list[Result]:
    """BLEU and chrF2++ by resource group of the spoken language, and the transfer gap (high less low).

    A group's score is the plain mean over its languages, as published; an interval draws texts of all languages
    together. Languages that are in no group of :data:`COVOST_GROUPS` are left out.

    Args:
        hypotheses: What a system wrote.
        references: What it should have written, one each.
        language: Of both, ``eng_Latn``.
        sources: What is spoken, a tag each.
        signature: Of data and model; its normalizer is replaced by the name of the mean.
        groups: Labels of texts that are drawn together, such as their content.
        seeds: Of the trainings behind the texts.
        resamples: Of the interval.

    Returns:
        Named ``BLEU, high``, ``BLEU, gap`` and so on, without groups that have no language.

    Raises:
        DataError: There are no texts, or not as many of each.
        ConfigError: sacreBLEU or the tokenizer of the language is not installed.
    """
    spoken = np.array(sources)
    present = {name: [tag for tag in tags if tag in sources] for name, tags in COVOST_GROUPS.items()}
    present = {name: tags for name, tags in present.items() if tags}
    wanted: dict[str, tuple[list[str], list[str]]] = {name: (tags, []) for name, tags in present.items()}
    if {"high", "low"} <= present.keys():
        wanted["gap"] = present["high"], present["low"]
    found = []
    scored: dict[str, BleuCounts | ChrfCounts]
    scored = {"BLEU": bleu_counts(hypotheses, references, language), "chrF2++": chrf_counts(hypotheses, references)}
    for metric, counts in scored.items():
        for name, (tags, less) in wanted.items():
            interval = bootstrap_statistic(
                len(references),
                partial(_gap, counts, spoken, tags, less),
                groups=groups,
                resamples=resamples,
                seed=signature.seed,
            )
            own = replace(signature, normalizer=f"mean of {metric} over {', '.join(tags)}")
            result = result_from_interval(
                f"{metric}, {name}", interval, unit="", higher_is_better=name != "gap", signature=own, seeds=seeds
            )
            found.append(result)
    return found


def _gap(
    counts: BleuCounts | ChrfCounts,
    spoken: NDArray[np.str_],
    tags: Sequence[str],
    less: Sequence[str],
    rows: NDArray[np.int64],
) -> float:
    """Mean over the languages ``tags``, less that over ``less``; of those of which a text is drawn."""

    def mean(languages: Sequence[str]) -> float:
        parts = [rows[spoken[rows] == language] for language in languages]
        return float(np.mean([counts.score(part) for part in parts if len(part)] or [0.0]))

    return mean(tags) - mean(less)
