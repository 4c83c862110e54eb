"""Transcription by CTC: recipes, training with scores on unmet contents, and transcribing files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from torch import Tensor

from allophone.data.collate import CollateConfig
from allophone.data.corpus import Corpus
from allophone.data.loader import WaveformCache
from allophone.data.splits import split_corpus
from allophone.distributed import device, on_rank_zero, require_shared
from allophone.errors import ConfigError, suggest
from allophone.evaluate.result import Result, Signature, tabulate
from allophone.evaluate.scores_page import TABLES, Rows, ScoresPage, Section, save_rows, saved_rows, write_scores
from allophone.evaluate.translation import transcript_results
from allophone.methods.transcription import Transcription, TranscriptionConfig
from allophone.models.conversion import model_hash
from allophone.models.transcriber import SpellingDecoderConfig, Transcriber, load_transcriber
from allophone.recipes.text_baselines import baseline_texts
from allophone.recipes.written import (
    BEFORE_UNKNOWN,
    STOPPED,
    Asked,
    ScoredRun,
    examples_of,
    in_words,
    kept_texts,
    nothing_held_out,
    unmet,
    write_all,
)
from allophone.run.config import DataConfig
from allophone.run.progress import Report, Tell, silent, to_nobody
from allophone.run.starter import open_base
from allophone.run.text_plan import plan_texts
from allophone.run.texts import TextRun, heard_with_texts, text_stream
from allophone.run.transcription import TranscribeConfig, build_transcriber, execute_transcription
from allophone.train.config import TrainConfig
from allophone.train.parallel import batches_of_step

FORMAT = "allophone-transcribe-result-1"


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscribeOptions:
    """What a user may choose."""

    recipe: Literal["small", "standard"] = "small"
    """small: one CPU; standard: a GPU and a large encoder."""
    train_encoder: bool = True
    """Whether the encoder is trained, or only the linear layer on it."""
    decoder_layers: int = 0
    """Layers of a decoder that learns beside CTC and re-ranks what its search keeps; 0 = CTC alone."""
    steps: int | None = None
    """Updates; None takes the recipe's."""
    microbatches: int | None = None
    """Batches of one update, those of all processes together; None takes one for each process."""
    width: int = 8
    """Texts kept in the search that is scored; 1 is greedy."""
    most_test: int = 200
    """Recordings scored in each language."""


def small(seed: int) -> TranscribeConfig:
    """For one CPU: batches of 96 s, 1,500 updates. All of it is our choice."""
    return TranscribeConfig(
        name="Transcriber, small",
        seed=seed,
        dropout=0.1,
        method=TranscriptionConfig(encoder_lr_scale=0.5),
        data=DataConfig(
            collate=CollateConfig(crop_seconds=12.0, equal_lengths=False, mask_probability=0.0),
            batch_seconds=96.0,
            min_seconds=0.3,
            alpha=0.5,
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


def standard(seed: int) -> TranscribeConfig:
    """For a GPU: batches of 400 s, 20,000 updates, the encoder at a thirtieth of the layer's rate."""
    config = small(seed)
    return replace(
        config,
        name="Transcriber",
        method=TranscriptionConfig(encoder_lr_scale=1 / 30),
        data=replace(config.data, batch_seconds=400.0, collate=replace(config.data.collate, crop_seconds=20.0)),
        train=replace(config.train, steps=20_000, warmup_steps=2_000, save_every=1_000),
    )


RECIPES: dict[str, Callable[[int], TranscribeConfig]] = {"small": small, "standard": standard}


def train_transcribers(
    model: str | Path,
    corpus: Corpus,
    *,
    out: Path,
    options: TranscribeOptions | None = None,
    seeds: Sequence[int] = (0,),
    report: Report = silent,
    tell: Tell = to_nobody,
) -> ScoredRun:
    """Train a transcriber, and score it on contents never met.

    Args:
        model: Speech encoder: 'starter', a folder or a hub id.
        corpus: With transcripts; its training split is heard. Without splits, they are drawn by speaker and content.
        out: Run folder; each transcriber lies in ``out/seed-N/model``, the scores in ``out/result.json``,
            ``out/scores.md`` and ``out/report.html``.
        options: Recipe and search.
        seeds: Of the trainings.
        report: Told how far each stage is.
        tell: Told before the training if nothing can be scored.

    Raises:
        ConfigError: There is no such recipe, no seed, or the processes cannot share the batches of a step.
        AllophoneError: What opening the model and the run itself raise.
    """
    require_shared(out)
    options = options or TranscribeOptions()
    if not seeds:
        raise ConfigError("transcribe needs at least one seed.")
    batches_of_step(options.microbatches)
    whole = split_corpus(corpus) if all(row.split is None for row in corpus) else corpus
    asked = unmet(whole, None, options.most_test, 1)
    if not asked:
        tell(nothing_held_out(whole))
    runs: dict[int, TextRun] = {}
    for seed in seeds:
        config, encoder = transcribe_config(options, seed), open_base(model)[0].encoder
        runs[seed] = execute_transcription(config, whole, out / f"seed-{seed}", encoder=encoder, report=report)
        if runs[seed].result.stopped == "signal":
            return STOPPED
    found: list[tuple[Path, Rows]] = []
    if asked:
        on_rank_zero(lambda: found.append(_judge(model, runs, whole, asked, options, out, report)))
    tables, rows = found[0] if found else (None, {})
    folders = tuple(run.folder for run in runs.values())
    return ScoredRun(folders=folders, finished=True, tables=tables, rows=rows)


def transcribe_config(options: TranscribeOptions, seed: int) -> TranscribeConfig:
    """The recipe with what a user chose.

    Raises:
        ConfigError: There is no such recipe, or the processes cannot share the batches of a step.
    """
    if options.recipe not in RECIPES:
        raise ConfigError(f"Unknown transcribe recipe {options.recipe!r}. {suggest(options.recipe, RECIPES)}")
    config = RECIPES[options.recipe](seed)
    decoder = SpellingDecoderConfig(layers=options.decoder_layers) if options.decoder_layers else None
    method = replace(config.method, train_encoder=options.train_encoder)
    train = replace(config.train, microbatches=batches_of_step(options.microbatches))
    config = replace(config, method=method, decoder=decoder, train=train)
    return config if options.steps is None else replace(config, train=config.train.shortened(options.steps))


def _judge(
    model: str | Path,
    runs: Mapping[int, TextRun],
    corpus: Corpus,
    asked: Sequence[Asked],
    options: TranscribeOptions,
    out: Path,
    report: Report,
) -> tuple[Path, Rows]:
    loaded = {seed: load_transcriber(run.folder).to(device()) for seed, run in runs.items()}
    heard, before = next(iter(runs.values())).heard.corpus, open_base(model)[0].encoder
    data_hash = corpus.with_utterances(tuple(one.row for one in asked)).hash
    cache, hashes = WaveformCache(corpus), [model_hash(one) for one in loaded.values()]
    made_from = {"models": hashes, "before": model_hash(before), "pool": data_hash, "width": options.width}
    done = saved_rows(out, FORMAT, made_from)
    if done is not None and (out / TABLES).exists():
        return out / TABLES, done
    baselines = baseline_texts(before, heard, corpus, asked, same_language=True, out=out, report=report)
    written: dict[str, list[list[str]]] = {name: [texts] for name, texts in baselines.items()}
    written["transcriber"] = [
        write_all(
            asked,
            cache,
            partial(_transcripts, one, options.width),
            kept_texts(out, made, data_hash, options.width),
            report(f"seed {seed}"),
        )
        for (seed, one), made in zip(loaded.items(), hashes, strict=True)
    ]
    rows: Rows = {}
    for name, texts in written.items():
        own = name == "transcriber"
        signature = Signature(data_hash=data_hash, model_hash=hashes[0] if own else name, normalizer="", seed=0)
        rows[name] = score_transcripts(asked, texts, signature, tuple(loaded) if own else ())
    facts = (
        ("Encoder", f"{model} ({model_hash(before)})"),
        ("Heard", in_words(heard)),
        ("Asked", in_words(one.row for one in asked)),
        ("Seeds", ", ".join(map(str, loaded))),
        ("Search", f"{options.width} texts"),
    )
    save_rows(rows, out, FORMAT, made_from, {"asked": len(asked)})
    return write_scores(_page(rows, facts, examples_of(asked, written["transcriber"][0])), out), rows


def _transcripts(
    model: Transcriber, width: int, waveform: Tensor, lengths: Tensor, asked: Sequence[Asked]
) -> list[str]:
    return [one.text for one in model.transcribe(waveform, lengths, width=width)]


def score_transcripts(
    asked: Sequence[Asked], texts: Sequence[Sequence[str]], signature: Signature, seeds: tuple[int, ...]
) -> list[Result]:
    """Error rates in every language, texts of several seeds together; names end with the language."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(asked):
        places[one.language].append(place)
    found = []
    for language, members in sorted(places.items()):
        results = transcript_results(
            [part[place] for part in texts for place in members],
            [asked[place].reference for _ in texts for place in members],
            language,
            signature,
            groups=[asked[place].content for _ in texts for place in members],
            seeds=seeds,
        )
        found += [replace(one, name=f"{one.name}, {language}") for one in results]
    return found


def _page(
    rows: Mapping[str, Sequence[Result]],
    facts: tuple[tuple[str, str], ...],
    examples: tuple[tuple[str, str, str], ...],
) -> ScoresPage:
    sections = []
    for name in ("CER normalized", "CER raw", "WER normalized", "WER raw"):
        part = {
            system: [replace(one, name=one.name.partition(", ")[2]) for one in found if one.name.startswith(name)]
            for system, found in rows.items()
        }
        text = "Texts as they are." if name.endswith("raw") else "Both texts normalized for their script."
        sections.append(Section(title=name, text=text, table=tabulate(part)))
    lead = (
        f"No content or text that is asked was in this training. {BEFORE_UNKNOWN} 95 % intervals over contents, "
        "languages in columns."
    )
    return ScoresPage(title="Transcription", lead=lead, facts=facts, sections=tuple(sections), examples=examples)


def plan(model: str | Path, corpus: Corpus, options: TranscribeOptions, *, runs: int) -> str:
    """What a training would do, from a probe of its first batch.

    Raises:
        AllophoneError: What opening model and corpus raise.
    """
    whole = split_corpus(corpus) if all(row.split is None for row in corpus) else corpus
    config, encoder = transcribe_config(options, 0), open_base(model)[0].encoder
    heard = heard_with_texts(whole, config.data)
    method = Transcription(build_transcriber(config, heard, encoder), config.method)
    with closing(text_stream(heard, encoder.clock, config)) as stream:
        batch = next(stream)
    hours = sum(heard.corpus.hours().values())
    notes = (f"{len(heard.corpus)} utterances, {len(method.model.alphabet)} characters.",)
    return str(plan_texts(f"Transcription on {hours:.2f} h", method, batch, config.train, seeds=runs, notes=notes))
