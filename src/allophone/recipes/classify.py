"""Recordings into classes that are only named: clips one by one, or a labelled corpus with scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from allophone.audio.io import load_audio
from allophone.config import to_dict
from allophone.data.corpus import Corpus
from allophone.data.folds import official_folds
from allophone.data.loader import WaveformCache
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, DataError
from allophone.evaluate.few_shot import FewShot, few_shot
from allophone.evaluate.result import Result, Signature, result_from_interval, save_results
from allophone.evaluate.zero_shot import ZeroShot, class_probabilities, class_prompts, class_vectors, zero_shot
from allophone.metrics.intervals import Interval, bootstrap
from allophone.models.aligned import Aligned
from allophone.models.conversion import model_folder
from allophone.recipes.align_scores import embedded, random_embedder
from allophone.recipes.contamination import in_words, seen_in_training
from allophone.recipes.search import open_towers
from allophone.run.progress import Report, silent
from allophone.text.captions import Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Classified:
    """A clip and what it is taken for."""

    path: Path
    probabilities: dict[str, float]
    """By label, the likeliest first."""


def classify(
    model: str | Path,
    clips: Sequence[Path],
    labels: Sequence[str],
    *,
    kind: Kind = "keyword",
    languages: Sequence[str] | None = None,
) -> list[Classified]:
    """Sort clips into named classes.

    Args:
        model: Of ``allophone align``.
        clips: Recordings.
        labels: Names of classes.
        kind: What they are: emotion, sound, keyword, language or speaker.
        languages: Of prompts; None = all that can name every class.

    Raises:
        ConfigError: The model has no text side, or there are fewer than two classes.
        DataError: A class is not in the table of captions.
    """
    towers = _aligned(model)
    classes = class_vectors(class_prompts(kind, labels, languages), towers.embed_texts)
    vectors = towers.embed_speech([load_audio(clip) for clip in clips])
    found = class_probabilities(vectors, classes, towers.info.temperature).tolist()
    return [
        Classified(path=clip, probabilities=dict(sorted(zip(labels, row, strict=True), key=lambda pair: -pair[1])))
        for clip, row in zip(clips, found, strict=True)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifiedCorpus:
    """Scores of a labelled corpus."""

    zero_shot: ZeroShot
    few_shot: list[FewShot]
    """Empty where the corpus has no other split to draw examples from, or too few of a class."""
    results: list[Result]
    tables: Path


def classify_corpus(
    model: str | Path,
    corpus: Corpus,
    labels: Sequence[str],
    *,
    out: Path,
    kind: Kind = "keyword",
    languages: Sequence[str] | None = None,
    seed: int = 0,
    report: Report = silent,
) -> ClassifiedCorpus:
    """Score zero-shot and few-shot classification on the labelled test split (or on everything, without splits).

    Args:
        model: Of ``allophone align``.
        corpus: Its column ``label`` holds classes; other labels are left aside.
        labels: Classes.
        out: Receives ``scores.md`` and ``result.json``.
        kind: What the labels are.
        languages: Of prompts.
        seed: Of draws and bootstrap.
        report: Told how far it is.

    Raises:
        DataError: No utterance has one of the labels.
    """
    towers = _aligned(model)
    classes = class_prompts(kind, labels, languages)
    judged = [row for row in corpus if row.label in labels and row.split in (None, "test")]
    if not judged:
        raise DataError(f"{corpus.name}: no utterance that is judged has one of the labels {list(labels)}.")
    truth = [str(row.label) for row in judged]
    cache = WaveformCache(corpus)
    speakers = [row.speaker or row.id for row in judged]
    groups = speakers if len(set(speakers)) >= 10 else [row.group or row.id for row in judged]
    speech = embedded(cache, judged, towers.embed_speech, report("Judged clips"))
    random = embedded(cache, judged, random_embedder(towers, seed), report("Random encoder"))
    scored = zero_shot(speech, truth, classes, towers.embed_texts, groups=groups, seed=seed)
    lowest = zero_shot(random, truth, classes, towers.embed_texts, groups=groups, seed=seed)
    few = _few(towers, corpus, labels, judged, speech, groups, cache, seed, report)
    data_hash = corpus.with_utterances(tuple(judged)).hash
    results = [
        _result("zero-shot, random encoder", lowest.accuracy, data_hash, "random", (seed,), seed),
        _result("zero-shot", scored.accuracy, data_hash, towers.info.hash, (towers.info.seed,), seed),
    ]
    results += [
        _result(f"{one.shots} examples a class", one.accuracy, data_hash, towers.info.hash, (towers.info.seed,), seed)
        for one in few
    ]
    seen = seen_in_training(model_folder(model), towers.info, corpus, judged, cache, report)
    out.mkdir(parents=True, exist_ok=True)
    save_results(results, out / "result.json")
    details = {
        "chance": scored.chance,
        "majority": scored.majority,
        "seen_in_training": in_words(seen),
        "prompts": [to_dict(one) for one in classes],
    }
    (out / "prompts.json").write_text(json.dumps(details, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    tables = out / "scores.md"
    tables.write_text(
        _table(results, scored, few, f"{len(judged)} clips of {len(labels)} classes; {in_words(seen)}."),
        encoding="utf-8",
    )
    return ClassifiedCorpus(zero_shot=scored, few_shot=few, results=results, tables=tables)


def _aligned(model: str | Path) -> Aligned:
    towers = open_towers(model)
    if towers.aligned is None:
        raise ConfigError(f"{model} has no text side, so classes cannot be named. Make one with `allophone align`.")
    return towers.aligned


def _few(
    towers: Aligned,
    corpus: Corpus,
    labels: Sequence[str],
    judged: Sequence[Utterance],
    speech: Tensor,
    groups: Sequence[str],
    cache: WaveformCache[Utterance],
    seed: int,
    report: Report,
) -> list[FewShot]:
    """Examples from the training split, or from all folds but the judged one; none where a class has none there."""
    if folds := official_folds(corpus):
        return _few_by_fold(labels, judged, folds, speech, groups, seed)
    rows = [row for row in corpus if row.label in labels and row.split == "train"]
    if {row.label for row in rows} != set(labels):
        return []
    examples = embedded(cache, rows, towers.embed_speech, report("Examples")).double().numpy()
    return few_shot(
        examples,
        [str(row.label) for row in rows],
        speech.double().numpy(),
        [str(row.label) for row in judged],
        groups=groups,
        seed=seed,
    )


def _few_by_fold(
    labels: Sequence[str],
    judged: Sequence[Utterance],
    folds: Sequence[int],
    speech: Tensor,
    groups: Sequence[str],
    seed: int,
) -> list[FewShot]:
    """Each official fold judged by examples from the others; scores are those of all folds together."""
    truth, of = np.array([str(row.label) for row in judged]), np.array([int(row.extra["fold"]) for row in judged])
    vectors, parts = speech.double().numpy(), []
    for fold in folds:
        inside = of == fold
        if not inside.any() or set(truth[~inside]) != set(labels):
            return []
        judge = few_shot(vectors[~inside], truth[~inside].tolist(), vectors[inside], truth[inside].tolist(), seed=seed)
        parts.append((np.flatnonzero(inside), {one.shots: one.hits for one in judge}))
    found = []
    for shots in sorted(set.intersection(*(set(hits) for _, hits in parts))):
        hits = np.zeros((len(parts[0][1][shots]), len(judged)))
        for places, of_fold in parts:
            hits[:, places] = of_fold[shots]
        found.append(
            FewShot(
                shots=shots,
                accuracy=bootstrap(hits, groups=groups, seed=seed).scaled(100.0),
                deviation=100 * float(hits.mean(axis=1).std()),
                chance=100.0 / len(labels),
                hits=hits,
            )
        )
    return found


def _result(
    name: str, interval: Interval, data_hash: str, model_hash: str, seeds: tuple[int, ...], seed: int
) -> Result:
    signature = Signature(data_hash=data_hash, model_hash=model_hash, normalizer="none", seed=seed)
    return result_from_interval(name, interval, unit="%", higher_is_better=True, signature=signature, seeds=seeds)


def _table(results: Sequence[Result], scored: ZeroShot, few: Sequence[FewShot], head: str) -> str:
    deviations = {f"{one.shots} examples a class": f"{one.deviation:.1f}" for one in few}
    lines = [head, "", "| | accuracy, % ↑ | deviation over draws |", "|---|---|---|"]
    lines += [f"| chance | {scored.chance:.1f} | – |", f"| most frequent class | {scored.majority:.1f} | – |"]
    lines += [f"| {one.name} | {one.text} | {deviations.get(one.name, '–')} |" for one in results]
    low, high = scored.prompt_spread
    lines += ["", f"Zero-shot with one prompt a class: {low:.1f} to {high:.1f} %. By language of the prompts:"]
    spread = ", ".join(f"{name} {value:.1f}" for name, value in scored.spread.items())
    mean = float(np.mean(list(scored.spread.values())))
    return "\n".join([*lines, f"{spread} (mean {mean:.1f})."]) + "\n"
