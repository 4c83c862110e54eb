"""Keyword spotting in languages whose recordings a model was never aligned on, by the words of each language alone.

A keyword is a class of the corpus (column ``label``); what it is called in a language is what the corpus' texts and
translations say. A recording belongs to the keyword whose word, in the recording's own language, it is most like.
Shape legend: N recordings, K keywords, E dim.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from allophone.data.captioning import content_facts
from allophone.data.corpus import Corpus
from allophone.data.loader import WaveformCache
from allophone.data.utterance import Utterance
from allophone.errors import DataError
from allophone.evaluate.result import Result, Signature, result_from_interval, save_results
from allophone.metrics.intervals import bootstrap
from allophone.metrics.retrieval import recall_at
from allophone.models.aligned import Aligned, load_aligned
from allophone.models.conversion import model_folder
from allophone.recipes.align_scores import RANDOM_SEEDS, embedded, random_embedder
from allophone.recipes.contamination import in_words, seen_in_training
from allophone.run.progress import Report, silent

Array = NDArray[np.float64]
Words = Mapping[str, Sequence[tuple[str, ...]]]
"""Language to the wordings of each keyword, at least one each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpottedKeywords:
    """How well keywords are told apart."""

    results: list[Result]
    """Chance, random encoder and the model over all languages, then the model in each."""
    tables: Path


def spot_keywords(
    model: str | Path,
    corpus: Corpus,
    labels: Sequence[str],
    languages: Sequence[str],
    *,
    out: Path,
    seed: int = 0,
    report: Report = silent,
) -> SpottedKeywords:
    """Score keyword spotting on every recording of some languages, whatever its split.

    Args:
        model: Of ``allophone align``; with ``--leave-out``, it never heard these languages.
        corpus: With the labels, and texts or translations of them.
        labels: Keywords.
        languages: That are spoken, ``deu_Latn``.
        out: Receives ``scores.md`` and ``result.json``.
        seed: Of the bootstrap.
        report: Told how far it is.

    Raises:
        DataError: No language has recordings and a word for every keyword.
    """
    towers = load_aligned(model)
    words = keyword_words(corpus, labels, languages)
    rows = [row for row in corpus if row.label in labels and row.language in words]
    if not rows:
        raise DataError(f"{corpus.name}: no recording in {list(languages)} has one of the labels {list(labels)}.")
    cache = WaveformCache(corpus)
    targets = keyword_vectors(words, towers.embed_texts)
    truth = [list(labels).index(str(row.label)) for row in rows]
    hits = {"aligned": [_hits(embedded(cache, rows, towers.embed_speech, report("Aligned")), rows, truth, targets)]}
    hits["random encoder"] = [
        _hits(
            embedded(cache, rows, random_embedder(towers, one), report(f"Random encoder {one}")), rows, truth, targets
        )
        for one in RANDOM_SEEDS
    ]
    data_hash = corpus.with_utterances(tuple(rows)).hash
    results = _results(hits, rows, len(labels), towers, data_hash, seed)
    seen = seen_in_training(model_folder(model), towers.info, corpus, rows, cache, report)
    out.mkdir(parents=True, exist_ok=True)
    save_results(results, out / "result.json")
    named = {language: dict(zip(labels, of, strict=True)) for language, of in words.items()}
    (out / "words.json").write_text(json.dumps(named, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    tables = out / "scores.md"
    head = f"{len(rows)} recordings of {len(labels)} keywords in {len(words)} languages; {in_words(seen)}.\n\n"
    lines = [f"| {one.name} | {one.n} | {one.text} |" for one in results]
    tables.write_text(head + "| | n | accuracy, % ↑ |\n|---|---|---|\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return SpottedKeywords(results=results, tables=tables)


def keyword_words(corpus: Corpus, labels: Sequence[str], languages: Sequence[str]) -> Words:
    """What the corpus calls each keyword in each language; languages that lack a word for one are left out."""
    facts = content_facts([row for row in corpus if row.label in labels])
    found: dict[str, dict[str, set[str]]] = {language: {label: set() for label in labels} for language in languages}
    for row in corpus:
        for fact in facts.get(row.id, ()):
            language, wording = fact.wordings[0]
            if language in found:
                found[language][str(row.label)].add(wording)
    return {
        language: [tuple(sorted(of[label])) for label in labels]
        for language, of in found.items()
        if all(of[label] for label in labels)
    }


def keyword_vectors(words: Words, embed: Callable[[Sequence[str]], Tensor]) -> dict[str, Tensor]:
    """For each language the mean vector of each keyword's wordings, of length 1. Shape ``(K, E)``."""
    return {
        language: F.normalize(torch.stack([embed(wordings).mean(dim=0) for wordings in of]), dim=-1)
        for language, of in words.items()
    }


def _hits(speech: Tensor, rows: Sequence[Utterance], truth: Sequence[int], targets: Mapping[str, Tensor]) -> Array:
    """Whether each recording's nearest keyword is its own, a share where others are as near. Shape ``(N,)``."""
    cosines = torch.stack([vector @ targets[row.language].T for vector, row in zip(speech, rows, strict=True)])
    return recall_at(cosines, torch.tensor(truth), (1,))[1].numpy()


def _results(
    hits: Mapping[str, Sequence[Array]],
    rows: Sequence[Utterance],
    keywords: int,
    towers: Aligned,
    data_hash: str,
    seed: int,
) -> list[Result]:
    """Over all languages, resampled by language where there are ten, and the model in each language."""
    spoken = np.array([row.language for row in rows])
    by_language = len(set(spoken.tolist())) >= 10
    groups = spoken.tolist() if by_language else [row.group or row.id for row in rows]

    def result(name: str, values: Array, of: Sequence[str], hash: str, seeds: Sequence[int]) -> Result:
        signature = Signature(data_hash=data_hash, model_hash=hash, normalizer="none", seed=seed)
        interval = bootstrap(values, groups=of, seed=seed).scaled(100.0)
        return result_from_interval(
            name, interval, unit="%", higher_is_better=True, signature=signature, seeds=tuple(seeds)
        )

    chance = 100.0 / keywords
    signature = Signature(data_hash=data_hash, model_hash="chance", normalizer="none", seed=seed)
    found = [
        Result(
            name="chance",
            value=chance,
            low=chance,
            high=chance,
            n=len(set(groups)),
            unit="%",
            higher_is_better=True,
            seeds=(),
            signature=signature,
        ),
        result("random encoder", np.stack(hits["random encoder"]), groups, "random", RANDOM_SEEDS),
        result("aligned", np.stack(hits["aligned"]), groups, towers.info.hash, (towers.info.seed,)),
    ]
    names = [row.group or row.id for row in rows]
    for language in sorted(set(spoken.tolist())):
        inside = np.flatnonzero(spoken == language)
        of = [names[place] for place in inside]
        found.append(
            result(f"aligned, {language}", hits["aligned"][0][None, inside], of, towers.info.hash, (towers.info.seed,))
        )
    return found
