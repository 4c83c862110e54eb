"""Does speech find the text that says the same, in its own language and in others, after distillation and before?

Every row is asked the same questions over one pool of contents that were never met. The filter bank, a random encoder
and the encoder as it was get a ridge regression from their pooled frames to the teacher's vectors of the texts
that were learned, so that what distillation adds is the difference to the last of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from allophone.data.corpus import Corpus
from allophone.data.loader import WaveformCache
from allophone.distributed import device
from allophone.evaluate.result import Result, Signature, tabulate
from allophone.evaluate.scores_page import ScoresPage, Section, save_rows, write_scores
from allophone.evaluate.semantic_search import (
    KINDS,
    chance_results,
    language_questions,
    search_misses,
    search_results,
)
from allophone.evaluate.sources import EncoderSource, FilterbankSource
from allophone.evaluate.text_retrieval import (
    NORMALIZER,
    WHERE,
    Pool,
    questions,
    score,
    score_chance,
    score_difference,
)
from allophone.evaluate.transcripts import load_transcriber, transcribe_all, transcripts_file
from allophone.models.build import Encoder
from allophone.models.conversion import model_hash
from allophone.models.language_removal import Removed
from allophone.models.speech_embedder import SpeechEmbedder
from allophone.models.text_teacher import Teacher, TeacherTable
from allophone.recipes.align_scores import RANDOM_SEEDS, embedded, pooled_frames
from allophone.recipes.kept_vectors import FOLDER, KeptVectors
from allophone.recipes.written import BEFORE_UNKNOWN
from allophone.run.distillation import known_negatives, ridge_targets, unit
from allophone.run.expansion import random_encoder
from allophone.run.progress import Report, counted
from allophone.run.ridge import RIDGE_CLIPS, drawn_rows, ridge_vectors
from allophone.run.texts import Heard

FORMAT = "allophone-distill-result-2"
BEFORE = "encoder before, ridge"
SHOWN = ("R@1", "R@5", "MRR")
"""Scores of a ranking that the page shows; ``result.json`` has all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What is compared, and on what."""

    before: Encoder
    """The encoder that the distillation began with."""
    heard: Heard
    """What was trained on; ridge regressions are fitted on it."""
    corpus: Corpus
    """Decodes the pool, and has the texts that negatives are made from."""
    pool: Pool
    table: TeacherTable
    """Vectors of all texts, less what is removed."""
    removed: Removed | None
    """What was taken off the table."""
    data_hash: str
    """Of the pool's utterances."""


def score_distillation(
    models: Mapping[int, SpeechEmbedder],
    judged: Judged,
    *,
    cascade: tuple[str | Path, Teacher] | None,
    out: Path,
    report: Report,
) -> dict[str, list[Result]]:
    """Results by system.

    Args:
        models: Distilled embedders by seed.
        judged: What they are compared with.
        cascade: Speech recognizer and text encoder, for the row of the cascade; None = no such row.
        out: Keeps transcripts and vectors, so that an interrupted scoring goes on.
        report: Told how far each stage is.
    """
    pool, before = judged.pool, judged.before
    keep = KeptVectors(
        folder=out / FOLDER, made_from=f"{model_hash(before)} {judged.heard.corpus.hash} {judged.data_hash}"
    )
    texts = unit(judged.table, [text for _, text in pool.texts])
    asked = [one for one in questions(pool, pairs=False) if one.direction == "speech to text"]
    asked += language_questions(pool)
    negatives = known_negatives(judged.corpus, judged.table)
    embed = partial(unit, judged.table)

    def row(speech: Mapping[int, Tensor], name: str, seeds: Sequence[int] = ()) -> list[Result]:
        misses = [search_misses(pool, one, texts, negatives, embed) for one in speech.values()]
        signature = Signature(data_hash=judged.data_hash, model_hash=name, normalizer=NORMALIZER, seed=0)
        vectors = {seed: (one, texts) for seed, one in speech.items()}
        ranked = score(asked, vectors, model_hash=name, data_hash=judged.data_hash, seeds=seeds)
        return ranked + search_results(misses, signature, seeds)

    # What is asked first: whoever cannot wait for the other rows finds these vectors kept.
    mapped = _by_ridge(judged, EncoderSource("encoder before", before, (before.num_layers,)), keep, report)
    speech = {seed: _by_model(judged, seed, model, keep, report) for seed, model in models.items()}
    flat = search_misses(pool, torch.zeros(len(pool.utterances), judged.table.dim), texts, negatives, embed)
    rows = {"chance": score_chance(asked, data_hash=judged.data_hash) + chance_results(flat, judged.data_hash)}
    bank = _by_ridge(judged, FilterbankSource.near(before.clock.rate), keep, report)
    rows["filter bank, ridge"] = row({0: bank}, "filter bank")
    drawn = {}
    for seed in RANDOM_SEEDS:
        source = EncoderSource(
            f"random encoder {seed}", random_encoder(before, seed).to(device()), (before.num_layers,)
        )
        drawn[seed] = _by_ridge(judged, source, keep, report)
    rows["random encoder, ridge"] = row(drawn, "random", RANDOM_SEEDS)
    rows[BEFORE] = row({0: mapped}, model_hash(before))
    if cascade is not None:
        written = _by_cascade(judged, *cascade, out, report)
        rows[f"cascade: {Path(cascade[0]).name}, then text"] = row({0: written}, str(cascade[0]))
    name = model_hash(next(iter(models.values())))
    rows["distilled"] = row(speech, name, tuple(models))
    rows[f"difference: distilled less {BEFORE}"] = score_difference(
        asked,
        {seed: (one, texts) for seed, one in speech.items()},
        (mapped, texts),
        model_hash=name,
        data_hash=judged.data_hash,
        seeds=tuple(models),
    )
    return rows


def _by_model(judged: Judged, seed: int, model: SpeechEmbedder, keep: KeptVectors, report: Report) -> Tensor:
    cache, name = WaveformCache(judged.corpus), f"distilled {model_hash(model)}"
    told = report(f"Distilled {seed}")
    return F.normalize(keep(name, embedded, cache, judged.pool.utterances, model.embed, told), dim=-1)


def _by_cascade(judged: Judged, transcriber: str | Path, teacher: Teacher, out: Path, report: Report) -> Tensor:
    file, rows = transcripts_file(out, transcriber), judged.pool.utterances
    listen, told = load_transcriber(transcriber), counted(report("Transcribing"))
    written = transcribe_all(rows, WaveformCache(judged.corpus), listen, file, told)
    vectors = torch.cat([teacher(written[start : start + 64]) for start in range(0, len(written), 64)])
    return F.normalize(vectors if judged.removed is None else judged.removed(vectors), dim=-1)


def _by_ridge(judged: Judged, source: EncoderSource | FilterbankSource, keep: KeptVectors, report: Report) -> Tensor:
    heard = judged.heard
    fitted_on = drawn_rows(heard.corpus, 0)
    clips, rows = f"{source.name}: training clips", judged.pool.utterances
    pooled = keep(clips, pooled_frames, WaveformCache(heard.corpus), fitted_on, source, report(clips))
    asked = keep(source.name, pooled_frames, WaveformCache(judged.corpus), rows, source, report(source.name))
    return ridge_vectors(pooled, ridge_targets(judged.table, heard, fitted_on), asked)


def write_distillation(
    rows: Mapping[str, Sequence[Result]],
    judged: Judged,
    made_from: Mapping[str, Any],
    facts: tuple[tuple[str, str], ...],
    out: Path,
) -> Path:
    """Write ``result.json``, ``scores.md`` and ``report.html``; returns the second."""
    pool = judged.pool
    size = {"recordings": len(pool.utterances), "texts": len(pool.texts), "spoken": list(pool.spoken)}
    save_rows(rows, out, FORMAT, made_from, {"pool": size})
    parts = [
        (
            "Over the whole pool",
            f"{len(pool.utterances)} recordings search {len(pool.texts)} texts in {len(pool.written)} languages. Right "
            "is every wording of what is said, in any of them.",
            _columns(rows, tuple(f"speech to text: {metric}" for metric in SHOWN)),
        ),
        *(
            (
                f"R@1, {where}",
                f"Right are texts in the {where.replace('own', 'spoken')} alone, by spoken language.",
                _columns(rows, (f" to {where}: R@1",), cut=f" to {where}: R@1"),
            )
            for where in WHERE
        ),
        (
            "Errors",
            "A wrong text is nearer than the right one: among texts of one language (xsim), and among these and texts "
            "that differ in a number, a name or a negation (xsim++, where the right text has such neighbors).",
            _columns(rows, KINDS),
        ),
    ]
    sections = tuple(Section(title=title, text=text, table=tabulate(part)) for title, text, part in parts if part)
    lead = (
        f"No content or text of the pool was in the distillation. {BEFORE_UNKNOWN} Percent, with 95 % intervals over "
        "contents (and seeds). Rows with ridge are mapped by a ridge regression, fitted on at most "
        f"{RIDGE_CLIPS:,} training clips (of encoders the last layer), to the teacher's vectors. Differences are in "
        "points, their intervals draw the same contents for both."
    )
    page = ScoresPage(title="Distillation: speech to meaning", lead=lead, facts=facts, sections=sections)
    return write_scores(page, out)


def _columns(rows: Mapping[str, Sequence[Result]], endings: tuple[str, ...], cut: str = "") -> dict[str, list[Result]]:
    """Results of each system whose names end so, under shorter names, without the ending that their title says."""
    found = {
        system: [
            replace(one, name=one.name.removeprefix("speech to text, ").removesuffix(cut))
            for one in results
            if one.name.endswith(endings)
        ]
        for system, results in rows.items()
    }
    return {system: results for system, results in found.items() if results}
