"""Do recordings find the texts that say the same, texts the recordings, and recordings each other in other languages?

Every query is answered from the whole pool: all recordings and all wordings of all languages. In a pair of languages
(spoken, written), what says the same in a third language is neither right nor wrong and is left out for that query; all
else stays in, in whatever language. Speech to speech counts answers in other languages than the query's alone, so that
neither its voice nor its language can be the answer; recordings of its own language that say the same are left out. Nor
can its length be (long sentences are long in every language, and a random encoder hears that): recordings more than
:data:`LIKE_LENGTH` times as long or as short as the query are left out there, the right ones too.
Shape legend: N recordings, M texts, E dim.
Source: protocol of docs and tables of this project; metrics as in :mod:`allophone.metrics.ranking`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allophone.data.captioning import content_facts
from allophone.data.utterance import Utterance
from allophone.errors import DataError
from allophone.evaluate.result import Result, Signature, result_from_interval
from allophone.metrics.intervals import Interval, bootstrap, paired_bootstrap
from allophone.metrics.ranking import ROWS, Ranking, chance_of_counts, rank_blocks

Array = NDArray[np.float64]
Direction = Literal["speech to text", "text to speech", "speech to speech"]
DIRECTIONS: tuple[Direction, ...] = ("speech to text", "text to speech", "speech to speech")
WHERE = ("own language", "other languages")
"""Languages of answers by that of the query."""
LIKE_LENGTH = 1.25
"""Recordings are of like length where none is more than so many times as long as the other."""
NORMALIZER = "content facts 1"
"""Texts are the same in one language where they differ in case, space or outer punctuation only."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pool:
    """What is searched."""

    utterances: tuple[Utterance, ...]
    """N recordings, each with at least one text."""
    texts: tuple[tuple[str, str], ...]
    """Language and wording of M texts, no two the same."""
    says: Tensor
    """Which texts are true of which recordings. Shape ``(N, M)``, bool."""

    @property
    def spoken(self) -> tuple[str, ...]:
        """Languages of recordings, sorted."""
        return tuple(sorted({row.language for row in self.utterances}))

    @property
    def written(self) -> tuple[str, ...]:
        """Languages of texts, sorted."""
        return tuple(sorted({language for language, _ in self.texts}))


def build_pool(utterances: Sequence[Utterance], languages: Sequence[str] | None = None) -> Pool:
    """All wordings of what some utterances say, in some languages (None = all); utterances without any are left out.

    Raises:
        DataError: Nothing is left.
    """
    facts = content_facts(utterances, languages)
    kept = tuple(row for row in utterances if facts[row.id])
    if not kept:
        raise DataError(f"None of {len(utterances)} utterances has a text in {list(languages or ('any language',))}.")
    wordings = {fact.value: fact.wordings[0] for row in kept for fact in facts[row.id]}
    places = {value: place for place, value in enumerate(sorted(wordings))}
    says = torch.zeros(len(kept), len(places), dtype=torch.bool)
    for number, row in enumerate(kept):
        says[number, [places[fact.value] for fact in facts[row.id]]] = True
    return Pool(utterances=kept, texts=tuple(wordings[value] for value in sorted(wordings)), says=says)


def held_out(utterances: Sequence[Utterance], known: Sequence[Utterance]) -> tuple[Utterance, ...]:
    """Utterances that share neither a group nor a text, in any language, with known ones."""
    groups = {row.group for row in known if row.group}
    said = {fact.value for facts in content_facts(known).values() for fact in facts}
    says = content_facts(utterances)
    return tuple(
        row for row in utterances if row.group not in groups and not any(fact.value in said for fact in says[row.id])
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Relation:
    """What all questions of one direction share. Q queries, C candidates, the whole pool."""

    direction: Direction
    pool: Pool
    tags: tuple[str, ...]
    """Languages; below, each is its place here."""
    query_languages: Tensor
    """Shape ``(Q,)``, int64."""
    answer_languages: Tensor
    """Shape ``(C,)``, int64."""
    contents: tuple[str, ...]
    """Content of each query."""
    said: Tensor
    """Which texts are true of which recordings, sparse, for speech to speech. Shape ``(N, M)``, float32."""
    seconds: Tensor
    """Logarithm of each recording's duration. Shape ``(N,)``."""

    def masks(self, queries: Tensor, wanted: str | None) -> tuple[Tensor, Tensor]:
        """Which candidates are right, and which take part; nothing of it is kept, for a pool has many questions.

        Args:
            queries: Positions among recordings or texts. Shape ``(B,)``, int64.
            wanted: Language of answers, or one of :data:`WHERE`; None = any.

        Returns:
            Two of shape ``(B, C)``, bool.
        """
        asking, answering = self.query_languages[queries][:, None], self.answer_languages[None]
        if wanted is None:
            fits = torch.ones_like(answering, dtype=torch.bool)
        elif wanted in WHERE:
            fits = answering == asking if wanted == WHERE[0] else answering != asking
        else:
            fits = answering == self.tags.index(wanted)
        if self.direction != "speech to speech":
            says = self.pool.says[queries] if self.direction == "speech to text" else self.pool.says[:, queries].T
            right = says & fits
            return right, right | ~says
        says = (torch.sparse.mm(self.said, self.pool.says[queries].T.float()) > 0).T
        alike = (self.seconds[queries][:, None] - self.seconds[None]).abs() <= math.log(LIKE_LENGTH)
        right = says & fits & (asking != answering) & alike
        return right, right | (alike & ~says)


def relate(pool: Pool, direction: Direction) -> Relation:
    """What all questions of one direction share."""
    tags = sorted({*pool.spoken, *pool.written})
    numbers = {tag: number for number, tag in enumerate(tags)}
    languages = {
        "speech": torch.tensor([numbers[row.language] for row in pool.utterances]),
        "text": torch.tensor([numbers[language] for language, _ in pool.texts]),
    }
    contents = tuple(row.group or row.id for row in pool.utterances)
    asking, _, answering = direction.partition(" to ")
    if asking == "text":
        contents = tuple(contents[place] for place in pool.says.int().argmax(dim=0).tolist())
    return Relation(
        direction=direction,
        pool=pool,
        tags=tuple(tags),
        query_languages=languages[asking],
        answer_languages=languages[answering],
        contents=contents,
        said=pool.says.to_sparse().float(),
        seconds=torch.tensor([row.duration_seconds for row in pool.utterances]).log(),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Question:
    """Queries, and what answers them."""

    relation: Relation
    pair: tuple[str, str] | None
    """Language of queries (or ``all``) and of answers (or one of :data:`WHERE`); None = all."""
    queries: Tensor
    """Positions among recordings or texts. Shape ``(Q,)``, int64."""

    @property
    def direction(self) -> Direction:
        """What searches what."""
        return self.relation.direction

    @property
    def name(self) -> str:
        """As tables have it."""
        return self.direction if self.pair is None else f"{self.direction}, {self.pair[0]} to {self.pair[1]}"

    @property
    def groups(self) -> tuple[str, ...]:
        """Content of each query, for a bootstrap over contents."""
        return tuple(self.relation.contents[place] for place in self.queries.tolist())

    @property
    def right(self) -> Tensor:
        """Right candidates of all queries. Shape ``(Q, C)``, bool."""
        return self.relation.masks(self.queries, self.pair and self.pair[1])[0]

    @property
    def allowed(self) -> Tensor:
        """Candidates of all queries that take part. Shape ``(Q, C)``, bool."""
        return self.relation.masks(self.queries, self.pair and self.pair[1])[1]

    def blocks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Queries ``(B,)``, their right candidates and those that take part, ``(B, C)``, some queries at once."""
        for part in self.queries.split(ROWS):
            yield part, *self.relation.masks(part, self.pair and self.pair[1])


def questions(pool: Pool, *, pairs: bool, least: int = 20) -> list[Question]:
    """Every direction over the whole pool and, where ``pairs``, every pair of languages with ``least`` queries.

    Questions are small: what answers them is found while they are asked, so many languages take no more memory.
    """
    asked: list[tuple[Direction, tuple[str, str] | None]] = [(direction, None) for direction in DIRECTIONS]
    if pairs:
        asked += [("speech to text", (a, b)) for a in pool.spoken for b in pool.written]
        asked += [("text to speech", (b, a)) for b in pool.written for a in pool.spoken]
        asked += [("speech to speech", (a, b)) for a in pool.spoken for b in pool.spoken if a != b]
    relations = {direction: relate(pool, direction) for direction in DIRECTIONS}
    found = [ask(relations[direction], pair) for direction, pair in asked]
    return [one for one in found if len(one.queries) >= (1 if one.pair is None else least)]


def ask(relation: Relation, pair: tuple[str, str] | None) -> Question:
    """The queries of a pair of languages (see :class:`Question`) that have an answer; there may be none."""
    queries = torch.arange(len(relation.contents))
    if pair is not None and pair[0] != "all":
        queries = queries[relation.query_languages == relation.tags.index(pair[0])]
    every = Question(relation=relation, pair=pair, queries=queries)
    answered = [part[right.any(dim=1)] for part, right, _ in every.blocks()]
    return replace(every, queries=torch.cat(answered))


def answer(question: Question, speech: Tensor, texts: Tensor, seed: int = 0) -> Ranking:
    """Rank the pool for each query.

    Args:
        question: Of :func:`questions`.
        speech: Vectors of length 1 of the pool's recordings. Shape ``(N, E)``.
        texts: The same of its texts. Shape ``(M, E)``.
        seed: Of the order of ties.
    """
    asked, searched = {
        "speech to text": (speech, texts),
        "text to speech": (texts, speech),
        "speech to speech": (speech, speech),
    }[question.direction]
    blocks = ((asked[part] @ searched.T, right, allowed) for part, right, allowed in question.blocks())
    return rank_blocks(blocks, seed=seed)


def chance(question: Question) -> Ranking:
    """What a random order gets."""
    counts = [(right.sum(dim=1), allowed.sum(dim=1)) for _, right, allowed in question.blocks()]
    return chance_of_counts(torch.cat([right for right, _ in counts]), torch.cat([allowed for _, allowed in counts]))


def score(
    asked: Sequence[Question],
    vectors: Mapping[int, tuple[Tensor, Tensor]],
    *,
    model_hash: str,
    data_hash: str,
    seeds: Sequence[int] = (),
    seed: int = 0,
) -> list[Result]:
    """Scores in percent with 95 % intervals over contents (and over seeds, where there are several).

    Args:
        asked: Questions.
        vectors: For each seed, vectors of length 1 of recordings ``(N, E)`` and of texts ``(M, E)``.
        model_hash: Of the model, or a name.
        data_hash: Of the pool.
        seeds: Of the trainings behind it; empty where nothing was trained.
        seed: Of ties and of the bootstrap.
    """
    signature = Signature(data_hash=data_hash, model_hash=model_hash, normalizer=NORMALIZER, seed=seed)
    found = []
    for question in asked:
        for metric, values in _by_seed(question, vectors, seed).items():
            interval = bootstrap(values, groups=question.groups, seed=seed)
            found.append(_result(question, metric, interval, signature, seeds))
    return found


def score_difference(
    asked: Sequence[Question],
    new: Mapping[int, tuple[Tensor, Tensor]],
    old: tuple[Tensor, Tensor],
    *,
    model_hash: str,
    data_hash: str,
    seeds: Sequence[int] = (),
    seed: int = 0,
) -> list[Result]:
    """What one system answers more than another, in points of percent, with paired 95 % intervals.

    The intervals draw the same contents for both, so they are narrower than those of the two scores together.

    Args:
        asked: Questions.
        new: For each seed, vectors of length 1 of recordings ``(N, E)`` and of texts ``(M, E)``.
        old: The same of the other, which is one for all seeds.
        model_hash: Of the new model, or a name.
        data_hash: Of the pool.
        seeds: Of the trainings behind the new one.
        seed: Of ties and of the bootstrap.
    """
    signature = Signature(data_hash=data_hash, model_hash=model_hash, normalizer=NORMALIZER, seed=seed)
    found = []
    for question in asked:
        before = answer(question, *old, seed=seed).scores()
        for metric, values in _by_seed(question, new, seed).items():
            interval = paired_bootstrap(values, before[metric], groups=question.groups, seed=seed)
            found.append(_result(question, metric, interval, signature, seeds))
    return found


def _by_seed(question: Question, vectors: Mapping[int, tuple[Tensor, Tensor]], seed: int) -> dict[str, Array]:
    """For each metric the values of all queries, a row a seed."""
    rankings = [answer(question, *vectors[one], seed=seed).scores() for one in sorted(vectors)]
    return {metric: np.stack([ranking[metric] for ranking in rankings]) for metric in rankings[0]}


def _result(question: Question, metric: str, interval: Interval, signature: Signature, seeds: Sequence[int]) -> Result:
    name, percent = f"{question.name}: {metric}", interval.scaled(100.0)
    return result_from_interval(name, percent, unit="%", higher_is_better=True, signature=signature, seeds=tuple(seeds))


def score_chance(asked: Sequence[Question], *, data_hash: str, seed: int = 0) -> list[Result]:
    """The row of chance, exact."""
    signature = Signature(data_hash=data_hash, model_hash="chance", normalizer=NORMALIZER, seed=seed)
    found = []
    for question in asked:
        for metric, values in chance(question).scores().items():
            value = 100.0 * float(values.mean())
            found.append(
                Result(
                    name=f"{question.name}: {metric}",
                    value=value,
                    low=value,
                    high=value,
                    n=len(set(question.groups)),
                    unit="%",
                    higher_is_better=True,
                    seeds=(),
                    signature=signature,
                )
            )
    return found
