"""Train, dev and test parts that share no speaker and no content, the same ones whenever they are drawn."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, DataError
from allophone.seeding import derive

Link: TypeAlias = Literal["speaker", "group", "text"]
_OVERSHOOT = (1.05, 1.5)


def split_corpus(
    corpus: Corpus, *, dev: float = 0.1, test: float = 0.1, by: Sequence[Link] = ("speaker", "group"), seed: int = 0
) -> Corpus:
    """Give every utterance a split.

    Utterances that share a speaker or a group (also through others) stay together, and so do those of one recording of
    which neither is known; such a cluster goes to test, dev or train as a whole. Clusters are taken in an order keyed
    by ``seed`` and their first id, so that the result does not depend on the order of rows. Shares are of audio time
    and hold per language, as far as clusters allow.

    Args:
        corpus: Splits that it has are replaced.
        dev: Share of each language's audio time for dev.
        test: Share for test.
        by: What may not be shared between splits. Of an utterance that has none of these, the recording may not.
        seed: Another seed gives other splits.

    Raises:
        ConfigError: The shares are negative or leave nothing for train, or ``by`` is empty.
        DataError: A language's utterances hang together so that one of the parts would be empty or far too large.
    """
    if dev < 0 or test < 0 or dev + test >= 1 or not by:
        raise ConfigError(
            f"dev={dev}, test={test}, by={by}: shares must be at least 0, leave some for train, and `by` not empty."
        )
    clusters = connected(corpus.utterances, by)
    clusters.sort(key=lambda rows: derive(seed, "split", min(row.id for row in rows)))
    total = _seconds(corpus.utterances)
    chosen: dict[str, str] = {}
    for split, share in (("test", test), ("dev", dev)):
        wanted = {language: seconds * share for language, seconds in total.items()}
        for row in _take([rows for rows in clusters if rows[0].id not in chosen], wanted):
            chosen[row.id] = split
    result = corpus.with_utterances(tuple(replace(row, split=chosen.get(row.id, "train")) for row in corpus.utterances))
    _require_all_parts(result, [name for name, share in (("train", 1.0), ("dev", dev), ("test", test)) if share], by)
    return result


def connected(utterances: Iterable[Utterance], by: Sequence[Link]) -> list[list[Utterance]]:
    """Clusters of utterances that share one of ``by``, directly or through others, in order of first row.

    An utterance that has none of them shares its sound file: parts of one session sound alike, whoever speaks.
    """
    rows = list(utterances)
    parent = list(range(len(rows)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    first: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows):
        for shared in _shared(row, by):
            parent[root(number)] = root(first.setdefault(shared, number))
    clusters: dict[int, list[Utterance]] = defaultdict(list)
    for number, row in enumerate(rows):
        clusters[root(number)].append(row)
    return list(clusters.values())


def find_leaks(corpus: Corpus, by: Sequence[Link] = ("speaker", "group")) -> dict[str, dict[str, tuple[str, ...]]]:
    """What lies in more than one split, and in which, by kind; empty when nothing leaks.

    Beside ``by``, ``"recording"``: sound files of which nothing in ``by`` is known.
    """
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in corpus.utterances:
        for shared in _shared(row, by):
            if row.split is not None:
                splits[shared].add(row.split)
    leaks: dict[str, dict[str, tuple[str, ...]]] = {}
    for (link, value), names in sorted(splits.items()):
        if len(names) > 1:
            leaks.setdefault(link, {})[value] = tuple(sorted(names))
    return leaks


def _shared(row: Utterance, by: Sequence[Link]) -> list[tuple[str, str]]:
    """What ties an utterance to others: those of ``by`` that it has, else its sound file."""
    known: list[tuple[str, str]] = [(link, getattr(row, link)) for link in by if getattr(row, link) is not None]
    return known or [("recording", row.path)]


def _seconds(rows: Iterable[Utterance]) -> Counter[str]:
    """Seconds of audio per language."""
    seconds: Counter[str] = Counter()
    for row in rows:
        seconds[row.language] += row.duration_seconds  # type: ignore[assignment]
    return seconds


def _take(clusters: list[list[Utterance]], wanted: dict[str, float]) -> list[Utterance]:
    """Whole clusters, in order, until each language has what is wanted, the more exact choice first."""
    taken: list[Utterance] = []
    have: Counter[str] = Counter()
    free = clusters
    for most in _OVERSHOOT:
        passed_over = []
        for rows in free:
            seconds = _seconds(rows)
            short = any(have[language] < 0.95 * wanted[language] for language in seconds)
            if short and all(have[language] + more <= most * wanted[language] for language, more in seconds.items()):
                taken += rows
                have.update(seconds)
            else:
                passed_over.append(rows)
        free = passed_over
    for language in sorted(wanted):  # small corpora: one cluster may be more than the share and its half
        if wanted[language] > 0 and have[language] == 0:
            smallest = _smallest(free, language, {row.id for row in taken})
            taken += smallest
            have.update(_seconds(smallest))
    return taken


def _smallest(clusters: list[list[Utterance]], language: str, taken: set[str]) -> list[Utterance]:
    """The shortest free cluster with a language, if two more are left for the other parts."""
    free = [rows for rows in clusters if rows[0].id not in taken and any(row.language == language for row in rows)]
    if len(free) < 2:
        return []
    return min(free, key=lambda rows: (sum(row.duration_seconds for row in rows), rows[0].id))


def _require_all_parts(corpus: Corpus, names: list[str], by: Sequence[Link]) -> None:
    parts: dict[str, set[str]] = defaultdict(set)
    for row in corpus.utterances:
        parts[row.language].add(str(row.split))
    for language, found in sorted(parts.items()):
        missing = [name for name in names if name not in found]
        if missing:
            raise DataError(
                f"{corpus.name}: no utterances of {language} for {missing}: they share {' and '.join(by)} (or, where "
                f"nothing of it is known, the recording) so that they cannot be parted. Keep fewer things apart "
                "(by=['group'] or by=['speaker'], --by group), ask for no dev part (dev=0), or add recordings of other "
                "speakers."
            )
