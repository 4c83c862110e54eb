"""BLEU and chrF2++ as sacreBLEU computes them, with its signatures, and their counts for each text.

Source: Post 2018, arXiv:1804.08771 (sacreBLEU); Papineni et al. 2002 (BLEU); Popović 2017 (chrF++). Values and
signatures come from sacreBLEU itself, which is in the extra ``translate``; the counts of each text are ours, so that a
score can be computed again on a resample without reading a text twice. Texts are compared as they are: sacreBLEU's
tokenizers do what is customary, and nothing is normalized before. One reference a text.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allophone.errors import ConfigError, DataError

TOKENIZERS = {"cmn": "zh", "zho": "zh", "yue": "zh", "jpn": "ja-mecab", "kor": "ko-mecab"}
"""sacreBLEU's tokenizer of a language, where it has one."""
WITHOUT_SPACES = ("Hans", "Hant", "Hani", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt")
"""Scripts whose words are not set apart, so that BLEU counts characters."""
CHARACTER_ORDER, WORD_ORDER, BETA = 6, 2, 2
"""Of chrF2++."""
BLEU_ORDER = 4
_PUNCTUATION = frozenset(string.punctuation)


@dataclass(frozen=True, slots=True)
class TranslationScore:
    """One score of all texts together."""

    value: float
    """0 to 100."""
    signature: str
    """sacreBLEU's: references, case, tokenizer, smoothing, version."""


def tokenizer_for(language: str) -> str:
    """The tokenizer of sacreBLEU for texts of a language.

    ``zh``, ``ja-mecab`` and ``ko-mecab`` where sacreBLEU has one for the language, ``char`` where the script sets no
    words apart, else its standard, ``13a``.

    Args:
        language: ISO 639-3 and ISO 15924: ``jpn_Jpan``.

    Example:
        >>> [tokenizer_for(language) for language in ("deu_Latn", "cmn_Hans", "tha_Thai")]
        ['13a', 'zh', 'char']
    """
    code, _, script = language.partition("_")
    if code in TOKENIZERS:
        return TOKENIZERS[code]
    return "char" if script in WITHOUT_SPACES else "13a"


def bleu(hypotheses: Sequence[str], references: Sequence[str], language: str) -> TranslationScore:
    """BLEU of all texts together.

    Args:
        hypotheses: What a system wrote, as text.
        references: What it should have written, one each.
        language: Of both, ``fra_Latn``; decides the tokenizer.

    Raises:
        DataError: There are no texts, or not as many references as hypotheses.
        ConfigError: sacreBLEU or the tokenizer of the language is not installed.
    """
    _require_pairs(hypotheses, references)
    metric = _bleu(tokenizer_for(language))
    return _scored(metric, hypotheses, references)


def require_bleu(language: str) -> None:
    """Refuse now, rather than after a training, a language whose BLEU cannot be computed here.

    Raises:
        ConfigError: sacreBLEU or the tokenizer of the language is not installed.
    """
    _bleu(tokenizer_for(language))


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> TranslationScore:
    """chrF2++ of all texts together; it needs no tokenizer.

    Raises:
        DataError: There are no texts, or not as many references as hypotheses.
        ConfigError: sacreBLEU is not installed.
    """
    _require_pairs(hypotheses, references)
    metric = _sacrebleu().CHRF(char_order=CHARACTER_ORDER, word_order=WORD_ORDER, beta=BETA)
    return _scored(metric, hypotheses, references)


def _scored(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> TranslationScore:
    value = float(metric.corpus_score(list(hypotheses), [list(references)]).score)
    return TranslationScore(value, str(metric.get_signature()))


@dataclass(frozen=True, slots=True, eq=False)
class BleuCounts:
    """What BLEU is made of, one row a text."""

    counts: NDArray[np.int64]
    """Matching n-grams of orders 1 to 4, all n-grams of the hypothesis, its length, the reference's. Shape (N, 10)."""

    def score(self, rows: NDArray[np.int64]) -> float:
        """BLEU of some rows, repeats allowed, 0 to 100."""
        total = self.counts[rows].sum(axis=0).tolist()
        found = _sacrebleu().BLEU.compute_bleu(
            correct=total[:BLEU_ORDER],
            total=total[BLEU_ORDER : 2 * BLEU_ORDER],
            sys_len=total[-2],
            ref_len=total[-1],
            smooth_method="exp",
        )
        return float(found.score)


def bleu_counts(hypotheses: Sequence[str], references: Sequence[str], language: str) -> BleuCounts:
    """Counts of each text; :func:`bleu` of the texts is :meth:`BleuCounts.score` of all rows.

    Raises:
        DataError: There are no texts, or not as many references as hypotheses.
        ConfigError: sacreBLEU or the tokenizer of the language is not installed.
    """
    _require_pairs(hypotheses, references)
    metric = _bleu(tokenizer_for(language))
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        found = metric.corpus_score([hypothesis], [[reference]])
        rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
    return BleuCounts(np.array(rows, dtype=np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class ChrfCounts:
    """What chrF2++ is made of, one row a text."""

    counts: NDArray[np.int64]
    """For characters 1 to 6 and words 1 to 2: n-grams of the hypothesis, of the reference, matches. Shape (N, 8, 3)."""

    def score(self, rows: NDArray[np.int64]) -> float:
        """chrF2++ of some rows, repeats allowed, 0 to 100."""
        written, wanted, same = self.counts[rows].sum(axis=0).T.astype(np.float64)
        there = (written > 0) & (wanted > 0)
        if not there.any():
            return 0.0
        precision, recall = float((same[there] / written[there]).mean()), float((same[there] / wanted[there]).mean())
        if precision + recall == 0:
            return 0.0
        factor = BETA**2
        return 100 * (1 + factor) * precision * recall / (factor * precision + recall)


def chrf_counts(hypotheses: Sequence[str], references: Sequence[str]) -> ChrfCounts:
    """Counts of each text; :func:`chrf` of the texts is :meth:`ChrfCounts.score` of all rows.

    Raises:
        DataError: There are no texts, or not as many references as hypotheses.
    """
    _require_pairs(hypotheses, references)
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        pairs = zip(_ngrams(hypothesis), _ngrams(reference), strict=True)
        # n-grams of an order that the reference is too short for count for nothing
        rows.append([[w.total() if r else 0, r.total(), (w & r).total()] for w, r in pairs])
    return ChrfCounts(np.array(rows, dtype=np.int64))


def _ngrams(text: str) -> list[Counter[Any]]:
    """Characters without spaces, orders 1 to 6, then words, orders 1 to 2."""
    characters, words = "".join(text.split()), _words(text)
    by_character: list[Counter[Any]] = [
        Counter(characters[start : start + order] for start in range(len(characters) - order + 1))
        for order in range(1, CHARACTER_ORDER + 1)
    ]
    return by_character + [
        Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))
        for order in range(1, WORD_ORDER + 1)
    ]


def _words(text: str) -> list[str]:
    """What spaces separate, with one mark of punctuation set apart at the end or, failing that, the beginning."""
    found = []
    for word in text.split():
        if len(word) > 1 and word[-1] in _PUNCTUATION:
            found += [word[:-1], word[-1]]
        elif len(word) > 1 and word[0] in _PUNCTUATION:
            found += [word[0], word[1:]]
        else:
            found.append(word)
    return found


def _require_pairs(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references) or not len(references):
        raise DataError(
            f"translation: {len(references)} references for {len(hypotheses)} hypotheses; expected as many."
        )


def _bleu(tokenizer: str) -> Any:
    metrics = _sacrebleu()
    try:
        return metrics.BLEU(tokenize=tokenizer)
    except (RuntimeError, ImportError) as error:
        extra = {"ja-mecab": "allophone[translate]", "ko-mecab": "allophone[ko]"}.get(tokenizer, "sacrebleu")
        raise ConfigError(
            f"BLEU with the tokenizer {tokenizer!r} needs more than is installed: `pip install '{extra}'`. Another "
            "tokenizer would give numbers that compare with nothing."
        ) from error


def _sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise ConfigError("Scores of translations need sacreBLEU: `pip install 'allophone[translate]'`.") from error
    return metrics
