"""How often is a wrong text nearer to an utterance than a right one: xsim, and xsim++ with texts that are nearly right?

For each utterance and each language that its content is written in, the candidates are all texts of that language in
the pool; an error is a nearest text that says something else. xsim++ adds to them, for every text, those that differ in
a number, a name or a negation, and asks only where the right text has such neighbors: plain xsim hardly notices them.
Shape legend: N utterances, M texts, E dim.
Source: xsim, Artetxe and Schwenk 2019, arXiv:1812.10464; xsim++, Chen et al. 2023, arXiv:2306.12907. Deviations: speech
searches text; plain cosines instead of margins; the perturbations of :mod:`allophone.text.perturb`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allophone.evaluate.result import Result, Signature, result_from_interval
from allophone.evaluate.text_retrieval import NORMALIZER, WHERE, Pool, Question, ask, relate
from allophone.metrics.intervals import bootstrap

KINDS = tuple(f"{error} error, {where}" for where in WHERE for error in ("xsim", "xsim++"))


def language_questions(pool: Pool, least: int = 20) -> list[Question]:
    """Speech to text over the whole pool, where only texts in the spoken language are right, or only all others.

    Asked of all utterances together (``all``) and of each spoken language with ``least`` queries. What says the same in
    languages that are not asked for is left out for the query.
    """
    relation = relate(pool, "speech to text")
    found = [ask(relation, (language, where)) for where in WHERE for language in ("all", *pool.spoken)]
    return [one for one in found if len(one.queries) >= (1 if one.pair and one.pair[0] == "all" else least)]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Misses:
    """Errors of one kind."""

    values: NDArray[np.float64]
    """1 where a wrong text is as near as the right one, for each utterance and language."""
    chance: NDArray[np.float64]
    """Share of wrong candidates."""
    groups: tuple[str, ...]
    """Content of each."""


def search_misses(
    pool: Pool,
    speech: Tensor,
    texts: Tensor,
    wrong: Mapping[str, tuple[str, ...]],
    embed: Callable[[Sequence[str]], Tensor],
) -> dict[str, Misses]:
    """Errors of every kind of :data:`KINDS` that can be asked.

    Args:
        pool: Utterances and texts.
        speech: Vectors of length 1 of the utterances. Shape ``(N, E)``.
        texts: The same of the texts. Shape ``(M, E)``.
        wrong: For texts of the pool those that are nearly right.
        embed: Vectors of length 1 of such texts.
    """
    found: dict[str, list[tuple[float, float, str]]] = {kind: [] for kind in KINDS}
    spoken = np.array([row.language for row in pool.utterances])
    for language in pool.written:
        columns = [place for place, (tag, _) in enumerate(pool.texts) if tag == language]
        says = pool.says[:, columns]
        rows = says.any(dim=1).nonzero()[:, 0]
        similar, right = speech[rows] @ texts[columns].T, says[rows]
        best = similar.masked_fill(~right, -torch.inf).amax(dim=1)
        others = similar.masked_fill(right, -torch.inf).amax(dim=1)
        near = [wrong.get(pool.texts[place][1], ()) for place in columns]
        negatives = sorted({one for texts_ in near for one in texts_} - {pool.texts[place][1] for place in columns})
        nearest = others
        if negatives:
            nearest = torch.maximum(others, (speech[rows] @ embed(negatives).T).amax(dim=1))
        asked = (right & torch.tensor([bool(one) for one in near])).any(dim=1)
        for number, row in enumerate(rows.tolist()):
            where = WHERE[int(spoken[row] != language)]
            content = pool.utterances[row].group or pool.utterances[row].id
            many = int(right[number].sum())
            share = 1 - many / len(columns)
            found[f"xsim error, {where}"].append((float(others[number] >= best[number]), share, content))
            if asked[number]:
                share = 1 - many / (len(columns) + len(negatives))
                found[f"xsim++ error, {where}"].append((float(nearest[number] >= best[number]), share, content))
    return {kind: _misses(items) for kind, items in found.items() if items}


def _misses(items: Sequence[tuple[float, float, str]]) -> Misses:
    values, chance, groups = zip(*items, strict=True)
    return Misses(values=np.array(values), chance=np.array(chance), groups=tuple(groups))


def search_results(misses: Sequence[Mapping[str, Misses]], signature: Signature, seeds: Sequence[int]) -> list[Result]:
    """Errors in percent with 95 % intervals over contents (and over seeds, where there are several).

    Args:
        misses: Of each seed, over the same pool.
        signature: Of data and model.
        seeds: Of the trainings behind it; empty where nothing was trained.
    """
    found = []
    for kind, first in misses[0].items():
        values = np.stack([one[kind].values for one in misses])
        interval = bootstrap(values, groups=first.groups, seed=signature.seed).scaled(100.0)
        found.append(
            result_from_interval(kind, interval, unit="%", higher_is_better=False, signature=signature, seeds=seeds)
        )
    return found


def chance_results(misses: Mapping[str, Misses], data_hash: str, seed: int = 0) -> list[Result]:
    """What a random order gets, exactly."""
    signature = Signature(data_hash=data_hash, model_hash="chance", normalizer=NORMALIZER, seed=seed)
    found = []
    for kind, one in misses.items():
        value = 100.0 * float(one.chance.mean())
        found.append(
            Result(
                name=kind,
                value=value,
                low=value,
                high=value,
                n=len(set(one.groups)),
                unit="%",
                higher_is_better=False,
                seeds=(),
                signature=signature,
            )
        )
    return found
