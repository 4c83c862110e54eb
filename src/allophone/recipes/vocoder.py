"""Training a vocoder for units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from allophone.data.collate import CollateConfig
from allophone.data.corpus import Corpus
from allophone.data.loader import WaveformCache
from allophone.distributed import rank_zero_first, require_shared
from allophone.errors import ConfigError, suggest
from allophone.evaluate.result import Result, load_results
from allophone.frames import FrameClock, samples_to_seconds
from allophone.methods.unit_vocoding import UnitVocodingConfig
from allophone.models.unit_vocoder import UnitVocoderConfig, geometry
from allophone.models.vocoder_conversion import Voices
from allophone.models.vocoder_discriminators import DiscriminatorsConfig
from allophone.nn.codebook import Codebook
from allophone.run.base import Base
from allophone.run.config import DataConfig
from allophone.run.origin import require_origin, write_origin
from allophone.run.plan import Plan
from allophone.run.progress import Report, Tell, counted, silent, to_nobody
from allophone.run.starter import open_base
from allophone.run.targets import kept_units, usable
from allophone.run.vocoder import Listen, VocoderRunConfig, concerned, execute_vocoder, voices_of
from allophone.run.vocoder_plan import plan_vocoder
from allophone.train.config import TrainConfig
from allophone.train.parallel import batches_of_step
from allophone.units.encode import Units, encode_units


def small(clock: FrameClock, num_units: int, voices: Voices, seed: int = 0) -> VocoderRunConfig:
    """Made in minutes on one core: under 2 M parameters, discriminators of periods alone, an eighth of their width.

    All of this is our choice. The learning rate is five times the published one and falls to a twentieth, because
    there are a few thousand steps and not half a million.
    """
    rates, kernels = geometry(clock.hop)
    vocoder = UnitVocoderConfig(
        num_units=num_units,
        unit_dim=128,
        **_tables(voices, speaker_dim=64, language_dim=16),
        channels=256,
        upsample_rates=rates,
        upsample_kernels=kernels,
        resblock_kernels=(3, 7),
        resblock_dilations=((1, 3), (1, 3)),
    )
    config = _run(vocoder, _data(clock, SEGMENTS["small"], clips=8), seed)
    method = UnitVocodingConfig(discriminators=DiscriminatorsConfig(scales=0, narrower=8))
    train = replace(config.train, steps=3_000, learning_rate=1e-3, warmup_steps=50, final_lr_scale=0.05, save_every=200)
    return replace(config, name="Small unit vocoder", method=method, train=train)


def standard(clock: FrameClock, num_units: int, voices: Voices, seed: int = 0) -> VocoderRunConfig:
    """As published: 13.4 M parameters, clips of 0.56 s, batches of 16, 500,000 steps (arXiv:2104.00355); for a GPU."""
    rates, kernels = geometry(clock.hop)
    tables = _tables(voices, speaker_dim=128, language_dim=128)
    vocoder = UnitVocoderConfig(num_units=num_units, **tables, upsample_rates=rates, upsample_kernels=kernels)
    return _run(vocoder, _data(clock, SEGMENTS["standard"], clips=16), seed)


def _tables(voices: Voices, *, speaker_dim: int, language_dim: int) -> dict[str, Any]:
    """Tables as large as there are voices, without width where there is but one."""
    several = len(voices.speakers) > 1, len(voices.languages) > 1
    return {
        "num_speakers": len(voices.speakers),
        "speaker_dim": speaker_dim if several[0] else 0,
        "num_languages": len(voices.languages),
        "language_dim": language_dim if several[1] else 0,
    }


def _data(clock: FrameClock, segment_samples: int, *, clips: int) -> DataConfig:
    """Clips of as many whole units as fit into a segment; shorter utterances are left out."""
    crop = samples_to_seconds(clock.samples(segment_samples // clock.hop))
    collate = CollateConfig(crop_seconds=crop, mask_probability=0.0)
    return DataConfig(collate=collate, batch_seconds=clips * crop, min_seconds=crop + clock.hop / 16_000, alpha=0.7)


def _run(vocoder: UnitVocoderConfig, data: DataConfig, seed: int) -> VocoderRunConfig:
    train = TrainConfig(
        steps=500_000,
        learning_rate=2e-4,
        final_lr_scale=0.1,
        betas=(0.8, 0.99),
        eps=1e-8,
        max_grad_norm=0.0,
        save_every=5_000,
        seed=seed,
    )
    return VocoderRunConfig(
        name="Unit vocoder", seed=seed, vocoder=vocoder, method=UnitVocodingConfig(), data=data, train=train
    )


RECIPES = {"small": small, "standard": standard}
SEGMENTS = {"small": 10_240, "standard": 8_960}
"""Samples of a training clip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedVocoder:
    """What ``train_vocoder`` leaves."""

    folder: Path
    """Vocoder folder."""
    finished: bool
    """False when a signal stopped it; the same call goes on."""
    results: tuple[Result, ...]
    """On held-out clips; empty where nothing is held out."""


def train_vocoder(
    corpus: Corpus,
    *,
    out: Path,
    model: str | Path | None = None,
    codebook: Path | None = None,
    units: Path | None = None,
    recipe: str = "small",
    pitch: bool = False,
    steps: int | None = None,
    microbatches: int | None = None,
    seed: int = 0,
    report: Report = silent,
    tell: Tell = to_nobody,
) -> TrainedVocoder:
    """Train a vocoder for the units of an encoder, or of a units file, on the voices of a corpus.

    Args:
        corpus: Its training split is heard, its dev or test split judged.
        out: Run folder; the vocoder lies in ``out/model``.
        model: Encoder that the codebook was fitted on: 'starter', a folder or a hub id.
        codebook: Folder; None = the one beside the model.
        units: Units of this corpus that are made already; the result then leaves out what the encoder would hear.
        recipe: Name in :data:`RECIPES`.
        pitch: Condition it on the melody of recordings as well.
        steps: Updates; None = the recipe's.
        microbatches: Batches of one update, a multiple of the number of processes; None = one for each of them.
        seed: Of everything that is drawn.
        report: Told how far each stage is.
        tell: Told before the training if nothing can be judged.

    Raises:
        ConfigError: Neither or both of ``model`` and ``units`` are given, there is no such recipe, or the processes
            cannot share the batches of a step.
        AllophoneError: What opening them and the run itself raise.
    """
    require_shared(out)
    _check(recipe, model, units)
    batches = batches_of_step(microbatches)
    if not any(row.split in ("dev", "test") for row in corpus):
        tell("Nothing will be judged: no recording of the corpus is in the split dev or test. Give some that split.")
    listen: Listen | None = None
    if model is None:
        assert units is not None
        made = Units.load(units)
    else:
        base, book = with_codebook(model, codebook)
        made = _encoded(corpus, base, book, out, report)
        listen = _listener(corpus, base, book)
    config = _config(corpus, made.clock, made.num_units, made.codebook_hash, recipe, pitch, steps, batches, seed)
    result = execute_vocoder(config, corpus, made, out, listen=listen, report=report)
    scored = out / "result.json"
    results = tuple(load_results(scored)) if scored.exists() else ()
    return TrainedVocoder(folder=out / "model", finished=result.stopped == "finished", results=results)


def _check(recipe: str, model: str | Path | None, units: Path | None) -> None:
    if recipe not in RECIPES:
        raise ConfigError(f"Unknown vocoder recipe {recipe!r}. {suggest(recipe, RECIPES)}")
    if (model is None) == (units is None):
        raise ConfigError("Say whose units the vocoder is for: either a model (and codebook), or a file of units.")


def _config(
    corpus: Corpus,
    clock: FrameClock,
    num_units: int,
    codebook_hash: str,
    recipe: str,
    pitch: bool,
    steps: int | None,
    batches: int,
    seed: int,
) -> VocoderRunConfig:
    """The recipe for the voices that are long enough to be heard."""
    heard = usable(corpus, _data(clock, SEGMENTS[recipe], clips=1))[0]
    config = RECIPES[recipe](clock, num_units, voices_of(heard, codebook_hash), seed)
    vocoder, train = replace(config.vocoder, pitch=pitch), replace(config.train, microbatches=batches)
    config = replace(config, vocoder=vocoder, train=train)
    if steps is not None:
        warmup = min(config.train.warmup_steps, steps // 10)
        config = replace(config, train=replace(config.train, steps=steps, warmup_steps=warmup))
    return config


def plan_training(
    corpus: Corpus,
    *,
    model: str | Path | None = None,
    codebook: Path | None = None,
    units: Path | None = None,
    recipe: str = "small",
    pitch: bool = False,
    steps: int | None = None,
    microbatches: int | None = None,
    seed: int = 0,
) -> Plan:
    """What :func:`train_vocoder` would do; nothing is written.

    Raises:
        ConfigError: As :func:`train_vocoder`.
    """
    _check(recipe, model, units)
    encoder, book = None, None
    if model is None:
        assert units is not None
        made = Units.load(units)
        clock, num_units, codebook_hash = made.clock, made.num_units, made.codebook_hash
    else:
        base, book = with_codebook(model, codebook)
        encoder, clock, num_units, codebook_hash = base.encoder, book.info.clock, book.info.num_units, book.hash
    batches = batches_of_step(microbatches)
    config = _config(corpus, clock, num_units, codebook_hash, recipe, pitch, steps, batches, seed)
    hours = sum(usable(corpus, config.data)[0].hours().values())
    encoded = sum(concerned(corpus).hours().values()) if book is not None else 0.0
    return plan_vocoder(config, clock, hours, encoder, book, encoded)


def with_codebook(model: str | Path, codebook: Path | None) -> tuple[Base, Codebook]:
    """An encoder and the codebook that is named, or the one beside it.

    Raises:
        ConfigError: There is none.
    """
    base = open_base(model)[0]
    book = base.codebook if codebook is None else Codebook.load(codebook)
    if book is None:
        raise ConfigError(f"{model} has no codebook beside it. Name one, or make it with `allophone units fit`.")
    return base, book


def _listener(corpus: Corpus, base: Base, book: Codebook) -> Listen:
    speakers = {row.id: row.speaker for row in corpus}

    def listen(waveforms: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        # What an untrained vocoder makes is nearly one sound.
        return encode_units(
            lambda: iter(waveforms.items()), book, encoder=base.encoder, speakers=speakers, may_collapse=True
        )

    return listen


@rank_zero_first()
def _encoded(corpus: Corpus, base: Base, book: Codebook, out: Path, report: Report) -> Units:
    """Units of what is heard or judged, from ``out/targets`` where they are already."""
    corpus, folder = concerned(corpus), out / "targets"
    origin = {"corpus": corpus.hash, "codebook": book.hash}
    path = folder / "units.parquet"
    if path.exists():
        require_origin(folder, origin)

    def encoded() -> Units:
        write_origin(folder, origin)
        cache = WaveformCache(corpus)
        return encode_units(
            lambda: ((row.id, cache.get(row)) for row in corpus),
            book,
            encoder=base.encoder,
            speakers={row.id: row.speaker for row in corpus},
            progress=counted(report("Encoding units")),
            total=len(corpus),
        )

    return kept_units(path, book, encoded)
