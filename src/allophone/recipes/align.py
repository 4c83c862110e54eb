"""Audio and text in one space: recipes of contrastive training on transcripts and their translations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from allophone.audio.augment import NO_AUGMENTATION
from allophone.audio.reverberation import ReverbConfig
from allophone.data.captioning import CaptionConfig, tellable
from allophone.data.collate import CollateConfig
from allophone.data.corpus import Corpus
from allophone.data.splits import split_corpus
from allophone.distributed import on_rank_zero, require_shared
from allophone.errors import ConfigError, DataError, suggest
from allophone.evaluate.result import Result
from allophone.evaluate.text_retrieval import Pool, build_pool, held_out
from allophone.methods.audio_text_contrast import AudioTextContrastConfig
from allophone.models.aligned import load_aligned
from allophone.models.speech_embedder import SpeechEmbedderConfig
from allophone.models.text_embedder import TextEmbedderConfig
from allophone.models.text_pooling import Pooling, stated_pooling
from allophone.models.text_tower import TextTowerConfig
from allophone.recipes.align_scores import score_towers
from allophone.recipes.written import nothing_held_out
from allophone.run.alignment import AlignConfig, execute_alignment
from allophone.run.config import DataConfig
from allophone.run.progress import Report, Tell, silent, to_nobody
from allophone.run.starter import open_base
from allophone.run.texts import require_texts, without
from allophone.train.config import TrainConfig
from allophone.train.parallel import batches_of_step

OWN_LANGUAGE = 0.4
"""Share of captions that are the transcript itself; so it is met more often than each of its translations."""


def small(languages: tuple[str, ...], *, from_nothing: bool, seed: int = 0) -> AlignConfig:
    """For one CPU: batches of 96 s of short clips (some 60), 700 updates. All of it is our choice.

    Args:
        languages: Of texts.
        from_nothing: Whether the text tower is made from nothing and trained whole; otherwise it stays frozen.
        seed: Of everything that is drawn.
    """
    text = TextEmbedderConfig(dim=256, training="full" if from_nothing else "frozen", max_tokens=64)
    return AlignConfig(
        name="Audio and text in one space",
        seed=seed,
        speech=SpeechEmbedderConfig(dim=256),
        text=text,
        tower=TextTowerConfig() if from_nothing else None,
        captions=CaptionConfig(languages=languages or None, own_language=OWN_LANGUAGE),
        method=AudioTextContrastConfig(chunk_rows=256),
        data=DataConfig(
            collate=CollateConfig(crop_seconds=6.0, equal_lengths=False, mask_probability=0.0),
            batch_seconds=96.0,
            min_seconds=0.3,
            alpha=0.5,
        ),
        train=TrainConfig(
            steps=700,
            learning_rate=5e-4,
            warmup_steps=100,
            schedule="cosine",
            log_every=20,
            save_every=250,
            seed=seed,
        ),
    )


def standard(languages: tuple[str, ...], *, from_nothing: bool, seed: int = 0) -> AlignConfig:
    """For a GPU: batches of 1,800 s, embedded in chunks of 64 clips, 20,000 updates; the text encoder by LoRA.

    CLARA (arXiv:2310.11830) has 512 values, a learning rate of 1e-4 and cosine annealing, and contrasts 16 clips; the
    batch is ours.
    """
    config = small(languages, from_nothing=from_nothing, seed=seed)
    return replace(
        config,
        speech=SpeechEmbedderConfig(dim=512),
        text=TextEmbedderConfig(dim=512, training="full" if from_nothing else "lora"),
        method=AudioTextContrastConfig(chunk_rows=64),
        data=replace(config.data, batch_seconds=1_800.0, collate=replace(config.data.collate, crop_seconds=15.0)),
        train=replace(config.train, steps=20_000, learning_rate=1e-4, warmup_steps=1_000, save_every=1_000),
    )


def frozen(languages: tuple[str, ...], *, from_nothing: bool, seed: int = 0) -> AlignConfig:
    """For one CPU and encoders that know much (Whisper, E5): they stay as they are, and what they made is kept.

    One transformer layer is trained on top, in batches of 192 s (some 120 clips), 600 updates; texts are not
    paraphrased, so that there are few enough to keep. All of it is our choice.
    """
    config = small(languages, from_nothing=from_nothing, seed=seed)
    return replace(
        config,
        speech=SpeechEmbedderConfig(dim=256, layers="last", context_layers=1, pooling_heads=8),
        captions=replace(config.captions, paraphrase=False),
        method=replace(config.method, train_encoder=False),
        data=replace(config.data, batch_seconds=192.0, collate=replace(config.data.collate, crop_seconds=15.0)),
        train=replace(config.train, steps=600, learning_rate=1e-3),
    )


AUDIO_AUGMENTATION: dict[str, dict[str, Any]] = {
    "noise": {"noise_probability": 0.3, "noise_snr_db": (0.0, 20.0)},
    "mask": {"hidden_bands": 2, "hidden_gaps": 2},
    "gain": {"gain_probability": 1.0},
    "speed": {"speed_probability": 2 / 3},
}
"""Parts of augmentation of the audio by name, and ``reverb`` (a third of the clips); all are off unless named."""
TEXT_AUGMENTATION = ("paraphrase", "languages")
"""Templates around what is said, and other languages than the spoken one; both are on unless others are named."""


def augmented(config: AlignConfig, audio: Sequence[str], text: Sequence[str] | None = None) -> AlignConfig:
    """A recipe with parts of augmentation, each by itself.

    Args:
        config: The recipe.
        audio: ``reverb``, and names of :data:`AUDIO_AUGMENTATION`.
        text: Names of :data:`TEXT_AUGMENTATION`; None = as the recipe has them.

    Raises:
        ConfigError: There is no such part.
    """
    for given, known in ((audio, (*AUDIO_AUGMENTATION, "reverb")), (text or (), TEXT_AUGMENTATION)):
        for name in given:
            if name not in known:
                raise ConfigError(f"Unknown part of augmentation {name!r}. {suggest(name, known)}")
    collate = config.data.collate
    if "reverb" in audio:
        collate = replace(collate, reverb=ReverbConfig(probability=1 / 3))
    values = {key: value for name in audio for key, value in AUDIO_AUGMENTATION.get(name, {}).items()}
    if values:
        collate = replace(collate, augment=replace(NO_AUGMENTATION, **values))
    captions = config.captions
    if text is not None:
        own = captions.own_language if "languages" in text else 1.0
        captions = replace(captions, paraphrase="paraphrase" in text, own_language=own)
    return replace(config, captions=captions, data=replace(config.data, collate=collate))


def read_as(
    config: AlignConfig, text: str | Path | None, pooling: Pooling | Literal["auto"], prefix: str
) -> AlignConfig:
    """A recipe with what the text encoder that is named was trained for.

    Args:
        config: The recipe.
        text: Folder or hub id of the text encoder; None = one from nothing.
        pooling: How it makes a vector of its tokens; ``auto`` = as it says itself.
        prefix: Stands before every text.

    Raises:
        ConfigError: None is named, or it makes vectors in a way that is not known here.
        CheckpointError: What it says cannot be read.
    """
    if text is None and (pooling != "auto" or prefix):
        raise ConfigError(f"--pooling {pooling} and --prefix {prefix!r} are of a text encoder: name one with --text.")
    if text is None:
        return config
    how = stated_pooling(text) if pooling == "auto" else pooling
    return replace(config, text=replace(config.text, pooling=how, prefix=prefix))


RECIPES = {"small": small, "frozen": frozen, "standard": standard}


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignResult:
    """What ``align`` leaves."""

    folder: Path
    """Model folder."""
    finished: bool
    """False when a signal stopped it; the same call goes on."""
    tables: Path | None
    """``scores.md``; None where nothing is held out, or training is not finished."""
    rows: dict[str, list[Result]]
    """Results by system."""


def align(
    model: str | Path,
    corpus: Corpus,
    *,
    out: Path,
    text: str | Path | None = None,
    pooling: Pooling | Literal["auto"] = "auto",
    prefix: str = "",
    languages: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    recipe: str = "small",
    augment: Sequence[str] = (),
    augment_text: Sequence[str] | None = None,
    steps: int | None = None,
    microbatches: int | None = None,
    seed: int = 0,
    transcriber: str | Path | None = None,
    transcribed: int | None = None,
    report: Report = silent,
    tell: Tell = to_nobody,
) -> AlignResult:
    """Train a speech embedder and a text embedder of one space, and score retrieval on contents never met.

    Args:
        model: Speech encoder: 'starter', a folder or a hub id.
        corpus: With texts; its training split is heard. Without splits, they are drawn by speaker and content.
        out: Run folder; the towers lie in ``out/model``, the scores in ``out/scores.md`` and ``out/result.json``.
        text: Folder or hub id of a text encoder (LaBSE, E5, BGE-M3, ...); None = a small one from nothing, which knows
            the words of this corpus alone.
        pooling: How the text encoder makes a vector of its tokens; auto = as its ``1_Pooling`` says, ``mean`` where it
            has none.
        prefix: Stands before every text for the text encoder (E5: ``query: ``).
        languages: Of texts, as the corpus writes them (``fra_Latn``); empty = those that are spoken in training.
        leave_out: Languages whose recordings are not heard in training; their texts are read all the same, as
            translations, and their test recordings are scored.
        recipe: Name in :data:`RECIPES`.
        augment: Parts of augmentation of the audio; see :func:`augmented`.
        augment_text: Parts of that of the texts; None = as the recipe has them.
        steps: Updates; None = the recipe's.
        microbatches: Batches of one update, a multiple of the number of processes; None = one for each of them.
        seed: Of everything that is drawn.
        transcriber: Speech recognizer of ``transformers`` that the towers are compared with; None = none.
        transcribed: Most recordings that it transcribes; None = all.
        report: Told how far each stage is.
        tell: Told what is left out, and before the training if nothing can be scored.

    Raises:
        ConfigError: There is no such recipe or part of augmentation, nobody to transcribe, no text encoder to pool, or
            the processes cannot share the batches of a step.
        DataError: A language to leave out is not one of the corpus, or one of texts has none.
        AllophoneError: What opening the model and the run itself raise.
    """
    require_shared(out)
    batches = batches_of_step(microbatches)
    if recipe not in RECIPES:
        raise ConfigError(f"Unknown align recipe {recipe!r}. {suggest(recipe, RECIPES)}")
    if transcribed is not None and (transcriber is None or transcribed < 1):
        raise ConfigError(f"--transcribe {transcribed} with --transcriber {transcriber}: name a model, and 1 or more.")
    whole = split_corpus(corpus) if all(row.split is None for row in corpus) else corpus
    require_texts(whole, languages)
    chosen, heard = tuple(languages) or spoken_languages(whole), without(whole, leave_out)
    pool = unheard_pool(whole, chosen)
    if pool is None:
        tell(nothing_held_out(whole))
    config = augmented(RECIPES[recipe](chosen, from_nothing=text is None, seed=seed), augment, augment_text)
    config = replace(config, train=_trained_for(config.train, steps, batches))
    config, encoder = read_as(config, text, pooling, prefix), open_base(model)[0].encoder
    trained = execute_alignment(config, heard, out, encoder=encoder, text=text, report=report, tell=tell)
    finished = trained.result.stopped != "signal"
    if pool is None or not finished:
        return AlignResult(folder=trained.folder, finished=finished, tables=None, rows={})

    def judge() -> AlignResult:
        towers, before = load_aligned(trained.folder), open_base(model)[0].encoder
        scores = score_towers(
            towers,
            before,
            trained.heard,
            whole,
            pool,
            out,
            folder=trained.folder,
            transcriber=transcriber,
            transcribed=transcribed,
            report=report,
        )
        return AlignResult(folder=trained.folder, finished=True, tables=scores.tables, rows=scores.rows)

    judged: list[AlignResult] = []
    on_rank_zero(lambda: judged.append(judge()))
    return judged[0] if judged else AlignResult(folder=trained.folder, finished=True, tables=None, rows={})


def _trained_for(train: TrainConfig, steps: int | None, microbatches: int) -> TrainConfig:
    train = replace(train, microbatches=microbatches)
    return train if steps is None else replace(train, steps=steps, warmup_steps=min(train.warmup_steps, steps // 10))


def spoken_languages(corpus: Corpus) -> tuple[str, ...]:
    """Languages that the training split speaks in and has texts for.

    Raises:
        DataError: There is no text at all.
    """
    training = [row for row in corpus if row.split in (None, "train")]
    found = {row.language for row in tellable(training, CaptionConfig()) if row.text}
    if not found:
        raise DataError(
            f"{corpus.name}: no utterance of the training split has a text, so there is nothing to contrast."
        )
    return tuple(sorted(found))


def unheard_pool(corpus: Corpus, languages: Sequence[str]) -> Pool | None:
    """Test (or else dev) utterances whose group and texts are in no other split, and their texts; None = none are."""
    for split, known in (("test", (None, "train", "dev")), ("dev", (None, "train"))):
        rows = held_out([row for row in corpus if row.split == split], [row for row in corpus if row.split in known])
        if tellable(rows, CaptionConfig(languages=tuple(languages))):
            return build_pool(rows, languages)
    return None
