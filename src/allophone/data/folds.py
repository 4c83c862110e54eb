"""Official folds of a corpus, which stand in ``extra["fold"]``: one is tested, the next one chooses, the others teach.

Their authors put what belongs together (slices of one recording, clips of one speaker) into one fold, so where a corpus
has folds, parts are never drawn otherwise: drawn ones have made published scores ten points too high.
"""

from __future__ import annotations

from dataclasses import replace

from allophone.data.corpus import Corpus
from allophone.errors import ConfigError, DataError

FOLD = "fold"


def official_folds(corpus: Corpus) -> tuple[int, ...]:
    """Numbers of the folds, sorted; none where the corpus has no folds, or has splits.

    Raises:
        DataError: Some utterances are in a fold and others are in none, or a fold is no number.
    """
    numbers = {row.id: row.extra.get(FOLD) for row in corpus}
    found = {number for number in numbers.values() if number is not None}
    if not found or any(row.split is not None for row in corpus):
        return ()
    outside = [name for name, number in numbers.items() if number is None]
    if outside:
        raise DataError(
            f"{corpus.name}: {len(outside)} utterances are in no fold (first: {outside[0]!r}), the others are in "
            f"{sorted(map(str, found))}. Give each one, or remove the column 'fold'."
        )
    try:
        return tuple(sorted({int(number) for number in found}))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{corpus.name}: the column 'fold' has {sorted(map(str, found))[:10]}; expected numbers, those of official "
            "folds. Name it 'split' if it has splits, or otherwise."
        ) from error


def with_fold(corpus: Corpus, fold: int) -> Corpus:
    """The corpus with splits: ``fold`` is test, the one after it (the first, after the last) dev, the others train.

    Raises:
        ConfigError: There is no such fold, or there are fewer than three.
    """
    folds = official_folds(corpus)
    if fold not in folds or len(folds) < 3:
        raise ConfigError(f"{corpus.name}: there is no fold {fold} of at least three; it has {list(folds)}.")
    after = folds[(folds.index(fold) + 1) % len(folds)]
    names = {fold: "test", after: "dev"}
    return corpus.with_utterances(tuple(replace(row, split=names.get(int(row.extra[FOLD]), "train")) for row in corpus))
