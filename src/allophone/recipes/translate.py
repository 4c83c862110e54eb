"""Speech translation: recipes after arXiv:2306.00789, training with scores on unmet contents, and translating files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from allophone.config import to_dict
from allophone.data.collate import CollateConfig
from allophone.data.corpus import Corpus
from allophone.data.loader import WaveformCache
from allophone.data.splits import split_corpus
from allophone.data.utterance import Utterance
from allophone.distributed import device, on_rank_zero, require_shared
from allophone.errors import ConfigError, suggest
from allophone.evaluate.scores_page import TABLES, Rows, saved_rows
from allophone.evaluate.text_translation import TextTranslator
from allophone.evaluate.transcripts import load_transcriber, transcribe_all, transcriber_hash, transcripts_file
from allophone.methods.speech_translation import SpeechTranslationConfig, three_phases
from allophone.metrics.translation import require_bleu
from allophone.models.conversion import model_hash
from allophone.models.frozen import FrozenStates
from allophone.models.speech_translator import SpeechTranslator, SpeechTranslatorConfig, load_speech_translator
from allophone.models.token_decoder import SearchConfig
from allophone.recipes.text_baselines import baseline_texts
from allophone.recipes.translate_scores import (
    FORMAT,
    Written,
    score_differences,
    score_texts,
    shuffled,
    write_translation,
)
from allophone.recipes.written import (
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
from allophone.run.progress import Report, Tell, counted, silent, to_nobody
from allophone.run.starter import open_base
from allophone.run.texts import TextRun, require_texts, without
from allophone.run.translation import (
    NewDecoder,
    TranslateConfig,
    execute_translation,
    search_as_trained,
    shared_states,
)
from allophone.text.languages import parse_language
from allophone.train.config import TrainConfig
from allophone.train.parallel import batches_of_step

LEAST = 20
"""Contents that a direction needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cascade:
    """Two models that do together what a translator does alone."""

    transcriber: str | Path
    """Speech recognizer of ``transformers``: a folder or a hub id. It is not told which language is spoken."""
    translator: str | Path
    """Text translator of ``transformers`` with tokens for languages. It is told both languages."""

    @property
    def hashes(self) -> list[str]:
        """Of both, by their weights."""
        return [transcriber_hash(self.transcriber), TextTranslator(self.translator).hash]


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslateOptions:
    """What a user may choose."""

    recipe: Literal["small", "standard"] = "small"
    """small: one CPU, a decoder from nothing; standard: a GPU, a pretrained decoder (--decoder) with adapters."""
    adapter_dim: int | None = None
    """Bottleneck of the adapters, two in each layer; 0 puts in none; None takes the recipe's."""
    training: Literal["adapters", "decoder", "full"] | None = None
    """adapters: both parts stay; decoder: the encoder stays; full: nothing stays; None takes the recipe's."""
    steps: int | None = None
    """Updates; None takes the recipe's."""
    microbatches: int | None = None
    """Batches of one update, those of all processes together; None takes one for each process."""
    beams: int = 5
    """Texts kept in the search that is scored."""
    most_test: int = 150
    """Recordings scored in each direction."""


def small(languages: tuple[str, ...], seed: int) -> TranslateConfig:
    """For one CPU: a frozen encoder and a decoder of a million parameters from nothing. All of it is our choice."""
    steps = 1_500
    phases = three_phases(steps)
    return TranslateConfig(
        name="Speech translator, small",
        seed=seed,
        languages=languages,
        decoder=NewDecoder(),
        translator=SpeechTranslatorConfig(length_layers=1, adapter_dim=0, training="decoder", train_layer_norms=False),
        method=SpeechTranslationConfig(max_target_tokens=64),
        data=DataConfig(
            collate=CollateConfig(crop_seconds=12.0, equal_lengths=False, mask_probability=0.0),
            batch_seconds=96.0,
            min_seconds=0.3,
            alpha=0.5,
        ),
        train=TrainConfig(
            steps=steps,
            learning_rate=2e-3,
            schedule="tri_stage",
            warmup_steps=phases.warmup_steps,
            hold_steps=phases.hold_steps,
            final_lr_scale=phases.final_lr_scale,
            log_every=20,
            save_every=250,
            seed=seed,
        ),
    )


def standard(languages: tuple[str, ...], seed: int) -> TranslateConfig:
    """For a GPU: both parts stay, adapters of 2 x 512 in each layer, three phases of 80,000 updates (the port's)."""
    phases = three_phases(80_000)
    config = small(languages, seed)
    return replace(
        config,
        name="Speech translator",
        decoder=None,
        translator=SpeechTranslatorConfig(),
        method=SpeechTranslationConfig(),
        data=replace(config.data, batch_seconds=240.0, collate=replace(config.data.collate, crop_seconds=20.0)),
        train=replace(
            config.train,
            steps=80_000,
            learning_rate=1e-3,
            warmup_steps=phases.warmup_steps,
            hold_steps=phases.hold_steps,
            save_every=2_000,
        ),
    )


RECIPES: dict[str, Callable[[tuple[str, ...], int], TranslateConfig]] = {"small": small, "standard": standard}


def train_translators(
    models: Mapping[str, str | Path],
    corpus: Corpus,
    *,
    out: Path,
    languages: Sequence[str] = ("eng_Latn",),
    decoder: str | Path | None = None,
    options: TranslateOptions | None = None,
    seeds: Sequence[int] = (0,),
    leave_out: Sequence[str] = (),
    cascade: Cascade | None = None,
    report: Report = silent,
    tell: Tell = to_nobody,
) -> ScoredRun:
    """Train a translator on each of some encoders, and score them side by side on contents never met.

    Args:
        models: Name to speech encoder: 'starter', a folder or a hub id; a distilled model's folder is one too.
        corpus: With translations; its training split is heard. Without splits, they are drawn by speaker and content.
        out: Run folder; each translator lies in ``out/NAME/seed-N/model``, the scores in ``out/result.json``,
            ``out/scores.md`` and ``out/report.html``.
        languages: To write, in any tag.
        decoder: Folder or hub id of a pretrained decoder; None = the recipe makes one.
        options: Recipe and search.
        seeds: Of the trainings.
        leave_out: Languages whose recordings are not heard in training; their test recordings are scored (zero-shot).
        cascade: Also score these two; None = no such row.
        report: Told how far each stage is.
        tell: Told before the training if nothing can be scored.

    Raises:
        ConfigError: There is no model or seed, recipe and decoder do not fit, the processes cannot share the batches of
            a step, or what BLEU needs is not installed.
        DataError: A language to write has no text, or the cascade's translator does not know one that is asked.
        AllophoneError: What opening the models and the runs themselves raise.
    """
    require_shared(out)
    options = options or TranslateOptions()
    if not models or not seeds:
        raise ConfigError("A translator needs at least one encoder and one seed.")
    batches_of_step(options.microbatches)
    whole = split_corpus(corpus) if all(row.split is None for row in corpus) else corpus
    tags = tuple(parse_language(language).tag for language in languages)
    require_texts(whole, tags)
    asked = unmet(whole, tags, options.most_test, LEAST)
    if not asked:
        tell(nothing_held_out(whole, LEAST))
    for tag in sorted({one.language for one in asked}):
        require_bleu(tag)
    if cascade is not None:
        _require_languages(cascade, asked)
    runs: dict[str, dict[int, TextRun]] = {name: {} for name in models}
    frozen: FrozenStates | None
    for name, model in models.items():
        frozen = None
        for seed in seeds:
            config = translate_config(options, tags, seed, decoder)
            encoder = open_base(model)[0].encoder if frozen is None else frozen.encoder
            frozen = frozen or shared_states(encoder, config)
            runs[name][seed] = run = execute_translation(
                config,
                without(whole, leave_out),
                out / name / f"seed-{seed}",
                encoder=encoder,
                decoder=decoder,
                frozen=frozen,
                report=report,
            )
            if run.result.stopped == "signal":
                return STOPPED
    frozen = None  # its gigabytes are free for the scores
    folders = tuple(run.folder for found in runs.values() for run in found.values())
    found: list[tuple[Path, Rows]] = []
    if asked:
        search = search_as_trained(config.method, options.beams)
        on_rank_zero(lambda: found.append(_judge(models, runs, whole, asked, search, cascade, out, report)))
    tables, rows = found[0] if found else (None, {})
    return ScoredRun(folders=folders, finished=True, tables=tables, rows=rows)


def translate_config(
    options: TranslateOptions, languages: tuple[str, ...], seed: int, decoder: str | Path | None
) -> TranslateConfig:
    """The recipe with what a user chose; a decoder that is named stays and gets adapters, in any recipe.

    Raises:
        ConfigError: There is no such recipe, or the processes cannot share the batches of a step.
    """
    if options.recipe not in RECIPES:
        raise ConfigError(f"Unknown translate recipe {options.recipe!r}. {suggest(options.recipe, RECIPES)}")
    config = RECIPES[options.recipe](languages, seed)
    chosen = config.translator
    if decoder is not None:
        chosen = SpeechTranslatorConfig(length_layers=chosen.length_layers)
    if options.adapter_dim is not None:
        chosen = replace(chosen, adapter_dim=options.adapter_dim)
    training = options.training or ("adapters" if decoder is not None else "decoder")
    chosen = replace(chosen, training=training)
    train = replace(config.train, microbatches=batches_of_step(options.microbatches))
    made = None if decoder is not None else config.decoder or NewDecoder()
    config = replace(config, translator=chosen, decoder=made, train=train)
    return config if options.steps is None else replace(config, train=config.train.shortened(options.steps))


def _judge(
    models: Mapping[str, str | Path],
    runs: Mapping[str, Mapping[int, TextRun]],
    corpus: Corpus,
    asked: Sequence[Asked],
    search: SearchConfig,
    cascade: Cascade | None,
    out: Path,
    report: Report,
) -> tuple[Path, Rows]:
    loaded = {name: {s: load_speech_translator(run.folder) for s, run in found.items()} for name, found in runs.items()}
    heard = next(iter(next(iter(runs.values())).values())).heard
    data_hash = corpus.with_utterances(tuple({one.row.id: one.row for one in asked}.values())).hash
    before = open_base(next(iter(models.values())))[0].encoder
    made_from: dict[str, Any] = {
        "models": {name: [model_hash(one) for one in found.values()] for name, found in loaded.items()},
        "before": model_hash(before),
        "pool": data_hash,
        "asked": len(asked),
        "search": to_dict(search),
        "cascade": None if cascade is None else cascade.hashes,
    }
    done = saved_rows(out, FORMAT, made_from)
    if done is not None and (out / TABLES).exists():
        return out / TABLES, done
    unheard = sorted({one.row.language for one in asked} - set(heard.corpus.languages))
    cache = WaveformCache(corpus)
    baselines = baseline_texts(before, heard.corpus, corpus, asked, same_language=False, out=out, report=report)
    written = {name: Written(texts=(tuple(texts),), model_hash=name, seeds=()) for name, texts in baselines.items()}
    if cascade is not None:
        written["cascade"] = _by_cascade(cascade, asked, cache, search.beams, out / "cascade", report)
    examples: tuple[tuple[str, str, str], ...] = ()
    for name, found in loaded.items():
        kept = [kept_texts(out, made, data_hash, search.beams, search.max_tokens) for made in made_from["models"][name]]
        texts = tuple(
            _translated(one, asked, cache, search, file, report(f"{name}, seed {seed}"))
            for (seed, one), file in zip(found.items(), kept, strict=True)
        )
        label = f"translator: {name}"
        written[label] = Written(texts=texts, model_hash=made_from["models"][name][0], seeds=tuple(found))
        if not examples:
            written[f"{label}, shuffled"] = replace(written[label], texts=tuple(shuffled(asked, one) for one in texts))
            examples = examples_of(asked, texts[0])
    rows = score_texts(asked, written, data_hash)
    first, *others = models
    for name in others:
        both = written[f"translator: {first}"], written[f"translator: {name}"]
        rows[f"difference: {name} less {first}"] = score_differences(asked, *both, data_hash)
    facts = (
        ("Encoders", ", ".join(f"{name} ({model})" for name, model in models.items())),
        ("Heard", in_words(heard.corpus)),
        ("Asked", in_words({one.row.id: one.row for one in asked}.values())),
        ("Writes", ", ".join(heard.languages or ())),
        ("Not in the translators' training", ", ".join(unheard) or "none of the languages that are scored"),
        ("Search", f"{search.beams} beams"),
    )
    return write_translation(rows, asked, unheard, made_from, facts, examples, out), rows


def _require_languages(cascade: Cascade, asked: Sequence[Asked]) -> None:
    """Refuse what the cascade cannot translate now rather than after the training."""
    translator = TextTranslator(cascade.translator)
    for language in sorted({tag for one in asked for tag in (one.row.language, one.language)}):
        translator.language_id(language)


def _by_cascade(
    cascade: Cascade,
    asked: Sequence[Asked],
    cache: WaveformCache[Utterance],
    beams: int,
    folder: Path,
    report: Report,
) -> Written:
    """Texts of the cascade; ``folder`` keeps the transcripts, so that an interrupted call goes on."""
    name = f"{cascade.transcriber} > {cascade.translator}"
    translator = TextTranslator(cascade.translator, beams=beams)
    rows = list({one.row.id: one.row for one in asked}.values())
    heard = transcribe_all(
        rows,
        cache,
        load_transcriber(cascade.transcriber),
        transcripts_file(folder, cascade.transcriber),
        counted(report("Cascade: transcribing")),
    )
    transcripts = {row.id: text for row, text in zip(rows, heard, strict=True)}
    directions: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, one in enumerate(asked):
        directions[one.row.language, one.language].append(place)
    texts, told = [""] * len(asked), report("Cascade: translating")
    for done, ((spoken, wanted), places) in enumerate(sorted(directions.items())):
        found = translator.translate([transcripts[asked[place].row.id] for place in places], spoken, wanted)
        for place, text in zip(places, found, strict=True):
            texts[place] = text
        told(done + 1, len(directions), {})
    return Written(texts=(tuple(texts),), model_hash=name, seeds=())


def _translated(
    model: SpeechTranslator,
    asked: Sequence[Asked],
    cache: WaveformCache[Utterance],
    search: SearchConfig,
    kept: Path,
    progress: Callable[[int, int, dict[str, float]], None],
) -> tuple[str, ...]:
    """Texts of one translator, which is where this process computes meanwhile."""
    model.to(device())
    texts = write_all(asked, cache, partial(_translations, model, search), kept, progress)
    model.cpu()
    return tuple(texts)


def _translations(
    model: SpeechTranslator, search: SearchConfig, waveform: Tensor, lengths: Tensor, asked: Sequence[Asked]
) -> list[str]:
    return [one.text for one in model.generate(waveform, lengths, [one.language for one in asked], search)]
