"""Semantic distillation: recipes after SAMU-XLS-R, and retrieval of meaning on contents that were never met."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from allophone.data.collate import CollateConfig
from allophone.data.corpus import Corpus
from allophone.data.splits import split_corpus
from allophone.distributed import device, on_rank_zero, rank_zero_first, require_shared
from allophone.errors import ConfigError, suggest
from allophone.evaluate.scores_page import Rows, saved_rows
from allophone.evaluate.text_retrieval import Pool
from allophone.evaluate.transcripts import transcriber_hash
from allophone.methods.semantic_distillation import SemanticDistillation, SemanticDistillationConfig
from allophone.models.conversion import model_hash
from allophone.models.frozen import FrozenStates
from allophone.models.language_removal import read_removed
from allophone.models.speech_embedder import SpeechEmbedder, SpeechEmbedderConfig, load_speech_embedder
from allophone.models.text_teacher import (
    INFO_FILE,
    Teacher,
    TeacherTable,
    TextTeacher,
    cached_vectors,
    load_teacher_table,
)
from allophone.recipes.align import unheard_pool
from allophone.recipes.distill_scores import FORMAT, Judged, score_distillation, write_distillation
from allophone.recipes.written import STOPPED, ScoredRun, in_words, nothing_held_out
from allophone.run.config import DataConfig
from allophone.run.distillation import (
    DistillConfig,
    corpus_texts,
    distilled_utterances,
    execute_distillation,
    shared_states,
    teacher_texts,
    with_known_texts,
)
from allophone.run.progress import Report, Tell, counted, silent, to_nobody
from allophone.run.ridge import RIDGE_CLIPS
from allophone.run.starter import STARTER, open_base, starter_teacher
from allophone.run.text_plan import plan_texts
from allophone.run.texts import TextRun, text_stream, without
from allophone.train.config import TrainConfig
from allophone.train.parallel import batches_of_step

Objective = Literal["samu", "contrast"]
"""The cosine as published, or with it the contrast with other texts and with those that are nearly right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillOptions:
    """What a user may choose."""

    objective: Literal["samu", "contrast"] = "contrast"
    """samu: the cosine alone, tanh, as published; contrast: with it contrast with other texts and those that are nearly
    right."""
    head: Literal["ridge", "mlp"] = "ridge"
    """Of objective contrast, what stands behind the frames. ridge: their weighted mean and deviation, and a projection
    that starts as a ridge regression to the teacher's vectors, with a network beside it; mlp: their weighted mean and
    two layers, from nothing."""
    layers: Literal["last", "weighted"] = "last"
    """What is pooled: the last layer, as published, or a learned mean of all, each normalized."""
    recipe: Literal["small", "standard"] = "small"
    """small: one CPU; standard: a GPU."""
    texts: Literal["own", "all"] = "own"
    """own: an utterance learns the vector of its transcript, as published; all: also those of its translations into
    the languages that the corpus speaks, one drawn each time."""
    removed: Literal["nothing", "mean", "languages"] = "languages"
    """What is taken off the teacher's vectors: their mean, or with it the directions in which languages differ."""
    train_encoder: bool = True
    """Whether the encoder is trained, or only what stands behind it."""
    steps: int | None = None
    """Updates; None takes the recipe's."""
    microbatches: int | None = None
    """Batches of one update, those of all processes together; None takes one for each process."""
    pooling: Literal["auto", "mean", "cls", "pooler"] = "auto"
    """Of a text encoder named with --teacher: mean of the tokens (E5), first token (BGE-M3), its pooler (LaBSE); auto:
    as the model's 1_Pooling says, mean where it has none."""
    prefix: str = ""
    """Stands before every text for such an encoder (E5: 'query: ')."""


def small(objective: Objective, dim: int, *, train_encoder: bool = True, seed: int = 0) -> DistillConfig:
    """For one CPU: batches of 96 s of short clips, 1,500 updates. Sizes and rates are our choice."""
    published = objective == "samu"
    method = SemanticDistillationConfig(
        beta=1.0,
        contrast_weight=0.0 if published else 1.0,
        train_encoder=train_encoder,
        encoder_lr_scale=0.5,  # the starter encoder is small; the published port has 0.01 for 300 M parameters
    )
    return DistillConfig(
        name=f"Speech to meaning ({objective})",
        seed=seed,
        speech=SpeechEmbedderConfig(
            dim=dim,
            layers="last",
            pooling_dim=0 if published else 128,
            projection="tanh" if published else "mlp",
        ),
        method=method,
        texts="own",
        balance=0.05,
        removed="languages",
        data=DataConfig(
            collate=CollateConfig(crop_seconds=10.0, equal_lengths=False, mask_probability=0.0),
            batch_seconds=96.0,
            min_seconds=0.3,
        ),
        train=TrainConfig(
            steps=1_500,
            learning_rate=1e-3,
            warmup_steps=100,
            schedule="cosine",
            log_every=20,
            save_every=250,
            seed=seed,
        ),
    )


def standard(objective: Objective, dim: int, *, train_encoder: bool = True, seed: int = 0) -> DistillConfig:
    """For a GPU and a large encoder: batches of 600 s, 20,000 updates, the encoder at a hundredth of the rate."""
    config = small(objective, dim, train_encoder=train_encoder, seed=seed)
    return replace(
        config,
        method=replace(config.method, encoder_lr_scale=0.01),
        data=replace(config.data, batch_seconds=600.0, collate=replace(config.data.collate, crop_seconds=20.0)),
        train=replace(config.train, steps=20_000, warmup_steps=2_000, save_every=1_000),
    )


RECIPES: dict[str, Callable[..., DistillConfig]] = {"small": small, "standard": standard}


def distill(
    model: str | Path,
    corpus: Corpus,
    *,
    out: Path,
    teacher: str | Path = STARTER,
    options: DistillOptions | None = None,
    seeds: Sequence[int] = (0,),
    leave_out: Sequence[str] = (),
    transcriber: str | Path | None = None,
    report: Report = silent,
    tell: Tell = to_nobody,
) -> ScoredRun:
    """Distil, and score retrieval of meaning on contents never met.

    Args:
        model: Speech encoder: 'starter', a folder or a hub id.
        corpus: With transcripts; its training split is heard. Without splits, they are drawn by speaker and content.
        out: Run folder; the embedder of each seed lies in ``out/seed-N/model``, scores in ``out/result.json``,
            ``out/scores.md`` and ``out/report.html``.
        teacher: 'starter' (vectors of the starter corpus' texts), a folder of vectors, or a folder or hub id of a text
            encoder; its vectors are kept in ``out/teacher``.
        options: Objective and recipe.
        seeds: Of the trainings.
        leave_out: Languages whose recordings are not heard in training; their test recordings are scored.
        transcriber: Speech recognizer of ``transformers`` for the row of the cascade; needs a text encoder as teacher.
        report: Told how far each stage is.
        tell: Told before the training if nothing can be scored.

    Raises:
        ConfigError: There is no such recipe, no seed, a cascade without a text encoder, or the processes cannot share
            the batches of a step.
        AllophoneError: What opening the model and the run itself raise.
    """
    require_shared(out)
    options = options or DistillOptions()
    if not seeds:
        raise ConfigError("distill needs at least one seed.")
    batches_of_step(options.microbatches)
    whole = split_corpus(corpus) if all(row.split is None for row in corpus) else corpus
    table, encode = open_teacher(teacher, whole, out / "teacher", options, report)
    if transcriber is not None and encode is None:
        raise ConfigError("The cascade needs the teacher itself, not its vectors. Name a text encoder with --teacher.")
    pool = meaning_pool(whole, table)
    if pool is None:
        tell(nothing_held_out(whole))
    runs: dict[int, TextRun] = {}
    frozen: FrozenStates | None = None
    for seed in seeds:
        config = distill_config(options, table.dim, seed)
        encoder = open_base(model)[0].encoder if frozen is None else frozen.encoder
        frozen = frozen or shared_states(encoder, config)
        runs[seed] = execute_distillation(
            config,
            without(whole, leave_out),
            out / f"seed-{seed}",
            encoder=encoder,
            teacher=table,
            frozen=frozen,
            report=report,
        )
        if runs[seed].result.stopped == "signal":
            return STOPPED
    frozen = None  # its gigabytes are free for the scores
    folders = {seed: run.folder for seed, run in runs.items()}
    found: list[tuple[Path, Rows]] = []
    if pool is not None:
        judged = meaning_judged(model, whole, runs[seeds[0]], table, pool)
        cascade = None if transcriber is None or encode is None else (transcriber, encode)
        on_rank_zero(lambda: found.append(_judge(judged, folders, cascade, str(model), out, report)))
    tables, rows = found[0] if found else (None, {})
    return ScoredRun(folders=tuple(folders.values()), finished=True, tables=tables, rows=rows)


def open_teacher(
    name: str | Path, corpus: Corpus, cache: Path, options: DistillOptions, report: Report = silent
) -> tuple[TeacherTable, Teacher | None]:
    """Vectors of a corpus' texts and of texts that are nearly right, and the text encoder where one is named."""
    folder = starter_teacher() if str(name) == STARTER else Path(name)
    if (folder / INFO_FILE).exists():
        return load_teacher_table(folder), None
    encoder = TextTeacher(name, pooling=options.pooling, prefix=options.prefix, device=device())

    def teacher(texts: Sequence[str]) -> Tensor:
        return F.normalize(encoder(texts), dim=-1)

    texts = teacher_texts(corpus)
    with rank_zero_first():
        table = cached_vectors(texts, teacher, encoder.name, cache, progress=counted(report("Teacher's vectors")))
    return table, teacher


def meaning_pool(corpus: Corpus, table: TeacherTable) -> Pool | None:
    """What is searched: the texts of held-out contents that the teacher has vectors of; None = nothing is held out."""
    pairs = corpus_texts(corpus)
    missing = set(table.missing([text for _, text in pairs]))
    languages = sorted({language for language, _ in pairs})
    return unheard_pool(with_known_texts(corpus, missing), languages)


def meaning_judged(model: str | Path, corpus: Corpus, run: TextRun, table: TeacherTable, pool: Pool) -> Judged:
    """What is scored, on the texts of :func:`meaning_pool`."""
    removed = read_removed(run.folder)
    return Judged(
        before=open_base(model)[0].encoder,
        heard=run.heard,
        corpus=corpus,
        pool=pool,
        table=table if removed is None else removed.off(table),
        removed=removed,
        data_hash=corpus.with_utterances(pool.utterances).hash,
    )


def _judge(
    judged: Judged,
    folders: Mapping[int, Path],
    cascade: tuple[str | Path, Teacher] | None,
    name: str,
    out: Path,
    report: Report,
) -> tuple[Path, Rows]:
    models = {seed: load_speech_embedder(folder).to(device()) for seed, folder in folders.items()}
    judged.before.to(device())
    made_from = {
        "models": {str(seed): model_hash(one) for seed, one in models.items()},
        "before": model_hash(judged.before),
        "pool": judged.data_hash,
        "teacher": judged.table.name,
        "transcriber": None if cascade is None else transcriber_hash(cascade[0]),
    }
    rows = saved_rows(out, FORMAT, made_from)
    if rows is None:
        rows = score_distillation(models, judged, cascade=cascade, out=out, report=report)
    facts = (
        ("Encoder", f"{name} ({made_from['before']})"),
        ("Teacher", judged.table.name),
        ("Heard", in_words(judged.heard.corpus)),
        ("Asked", in_words(judged.pool.utterances)),
        ("Seeds", ", ".join(map(str, models))),
    )
    return write_distillation(rows, judged, made_from, facts, out), rows


def plan(
    model: str | Path,
    corpus: Corpus,
    teacher: str | Path,
    options: DistillOptions,
    seeds: int,
    leave_out: Sequence[str],
) -> str:
    """What a distillation would do, from a probe of its first batch; a text encoder is not run for it.

    Raises:
        AllophoneError: What opening model, corpus and teacher raise.
    """
    whole = split_corpus(corpus) if all(row.split is None for row in corpus) else corpus
    folder = starter_teacher() if str(teacher) == STARTER else Path(teacher)
    if not (folder / INFO_FILE).exists():
        count = len(corpus_texts(whole))
        return f"The vectors of {count} texts would be made by {teacher} first; then --plan says the rest from them."
    table = load_teacher_table(folder)
    config, encoder = distill_config(options, table.dim, 0), open_base(model)[0].encoder
    heard = distilled_utterances(without(whole, leave_out), config, table)
    frozen = shared_states(encoder, config)
    method = SemanticDistillation(SpeechEmbedder(encoder, config.speech), table, config.method, frozen=frozen)
    with closing(text_stream(heard, encoder.clock, config)) as stream:
        batch = next(stream)
    hours = sum(heard.corpus.hours().values())
    left_out = ", ".join(f"{language} {count}" for language, count in sorted(heard.left_out.items())) or "none"
    first = (
        f"Before it, {min(len(heard.corpus), RIDGE_CLIPS)} recordings go through the encoder, for the ridge regression "
        "that training starts from; not in the time.",
    )
    notes = (
        *(first if config.speech.projection == "corrected" else ()),
        f"Left out, too short or without a text that the teacher knows: {left_out}.",
        f"Teacher: {table.name}, {len(table.keys)} texts of {table.dim} values.",
    )
    title = f"Distillation on {hours:.2f} h"
    return str(plan_texts(title, method, batch, config.train, seeds=seeds, notes=notes, frozen=frozen, hours=hours))


def distill_config(options: DistillOptions, dim: int, seed: int) -> DistillConfig:
    """The recipe with what a user chose."""
    if options.recipe not in RECIPES:
        raise ConfigError(f"Unknown distill recipe {options.recipe!r}. {suggest(options.recipe, RECIPES)}")
    config = RECIPES[options.recipe](options.objective, dim, train_encoder=options.train_encoder, seed=seed)
    speech = replace(config.speech, layers=options.layers, normalize=options.layers == "weighted")
    if options.objective == "contrast" and options.head == "ridge":
        speech = replace(speech, pooling="statistics", projection="corrected")
    train = replace(config.train, microbatches=batches_of_step(options.microbatches))
    config = replace(config, speech=speech, texts=options.texts, removed=options.removed, train=train)
    return config if options.steps is None else replace(config, train=config.train.shortened(options.steps))
