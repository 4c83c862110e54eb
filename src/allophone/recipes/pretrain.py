"""Complete pretraining runs, and the command that goes through their iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from allophone.audio.augment import AugmentConfig
from allophone.data.collate import CollateConfig
from allophone.data.corpus import Corpus
from allophone.data.noise import Sounds
from allophone.distributed import on_rank_zero, require_shared
from allophone.errors import ConfigError, suggest
from allophone.models.conversion import load_encoder
from allophone.models.hubert import published_config
from allophone.models.lasr import LasrConfig
from allophone.models.multi_resolution import FusionConfig
from allophone.recipes.denoise import DenoiseConfig, describe, open_sounds, save_quarantines, with_denoising
from allophone.recipes.handing_over import hand_over
from allophone.recipes.resolutions import at_resolution, hubert_small, mr_hubert
from allophone.recipes.stages import Balance, TwoStage, balanced, continued, iterated, with_steps
from allophone.run.base import Base
from allophone.run.config import DataConfig, RunConfig, TargetsConfig
from allophone.run.execute import Trained, execute
from allophone.run.progress import Report, Tell, silent, to_nobody
from allophone.run.start import Start, finished_run
from allophone.run.starter import open_base
from allophone.run.targets import left_out_note, usable
from allophone.train.config import TrainConfig
from allophone.train.parallel import batches_per_process


def starter(seed: int = 0) -> tuple[RunConfig, ...]:
    """The encoder that ships with the project: 6 M parameters, log-mel, 40 ms, two iterations, hours of one CPU.

    Everything here is our choice for a small machine: 40-ms frames and a Conformer because a raw-waveform front end
    costs more than the rest at this size; LASR because nothing in it is normalized over the utterance, which ruins
    one-second prompts; loss on visible frames at full weight because short runs otherwise stay on the unigram plateau
    for long; perturbed input with clean labels against few voices; and a second iteration that starts from the first's
    weights because its steps are too few to begin again (docs/LOG.md has the figures).
    """
    encoder = LasrConfig(
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        attention_bias=True,
        convolution_bias=True,
        conv_kernel_size=15,
        subsampling_conv_channels=256,
        subsampling_conv_kernel_size=2,
        num_mel_bins=80,
        layer_norm_eps=1e-5,
        feed_forward_residual_weights=(1.0, 0.5),
        conv_residual_weights=(1.0, 1.0),
        rope_theta=100.0,
        local_attention_init=True,
    )
    collate = CollateConfig(crop_seconds=6.0, mask_probability=0.65, mask_length=5, augment=AugmentConfig())
    first = RunConfig(
        name="iteration-1",
        seed=seed,
        encoder=encoder,
        targets=TargetsConfig(front_end="mfcc39", num_units=128, normalization="voice", labels_per_frame=2),
        data=DataConfig(collate=collate, batch_seconds=24.0, alpha=0.7, beta=0.9),
        train=TrainConfig(
            steps=4_000,
            learning_rate=1e-3,
            warmup_steps=200,
            final_lr_scale=0.02,
            weight_decay=0.05,
            max_grad_norm=5.0,
            save_every=500,
            log_every=100,
            seed=seed,
        ),
        projection_dim=256,
        table_init="normal",
        unmasked_weight=1.0,
    )
    second = replace(
        first,
        name="iteration-2",
        targets=TargetsConfig(front_end="model", layer=4, num_units=256, normalization="voice"),
        data=replace(first.data, collate=replace(collate, augment=AugmentConfig(warp_range=0.22))),
        train=replace(first.train, steps=15_000),
        warm_start=True,
    )
    return first, second


def hubert_base(seed: int = 0) -> tuple[RunConfig, ...]:
    """HuBERT Base as published: MFCC, K = 100 for 250k updates, then layer 6, K = 500 for 400k (arXiv:2106.07447).

    An update hears 32 batches of at most 87.5 s, one of each of the 32 GPUs; with fewer (``microbatches``) it is
    another recipe. The learning rate rises in 8 % of a run; dropout and the front end's gradient are those of fairseq.
    Deviations: no layer is dropped (published: 5 % of them), masked spans are not cut to equal numbers within a batch,
    the table of units has no four spare rows, and bfloat16 takes the place of float16.
    """
    collate = CollateConfig(crop_seconds=15.6)
    encoder = replace(
        published_config("hubert-base"), feature_grad_mult=0.1, feat_proj_dropout=0.1, activation_dropout=0.0
    )
    train = TrainConfig(
        steps=250_000, microbatches=32, learning_rate=5e-4, warmup_steps=20_000, save_every=5_000, seed=seed
    )
    first = RunConfig(
        name="iteration-1",
        seed=seed,
        encoder=encoder,
        targets=TargetsConfig(front_end="mfcc39", num_units=100, fit_hours=96.0),
        data=DataConfig(collate=collate, batch_seconds=87.5, min_seconds=2.0),
        train=train,
    )
    targets = TargetsConfig(front_end="model", layer=6, num_units=500, fit_hours=96.0)
    longer = replace(train, steps=400_000, warmup_steps=32_000)
    return first, replace(first, name="iteration-2", targets=targets, train=longer)


def recipe_configs(
    recipe: str,
    seed: int,
    steps: tuple[int, ...] | None = None,
    *,
    iterations: int | None = None,
    balance: Balance | None = None,
    base: Base | None = None,
    layer: int | None = None,
    num_units: int | None = None,
    microbatches: int | None = None,
    learning_rate: float | None = None,
    parallel: Parallel = "auto",
) -> tuple[RunConfig, ...]:
    """All runs of a pretraining: the recipe's iterations, changed as asked, and a second stage where there is one.

    Args:
        recipe: Name in :data:`RECIPES`.
        seed: Of everything that is drawn.
        steps: Updates of each run; None = the recipe's.
        iterations: How many; None = the recipe's (one with ``base``), or as many as ``steps`` has numbers for.
        balance: How languages are balanced; None = the recipe's own exponents.
        base: Encoder that the first iteration goes on from, with the settings of the recipe's last one.
        layer: Of ``base``, whose clusters are the targets; None = that of its codebook, or the middle one.
        num_units: K of these; None = as many as its codebook has, or 500.
        microbatches: Batches of one update, those of all processes together; None = the recipe's.
        learning_rate: Peak of each iteration, of which a second stage takes its share; None = the recipe's, with
            ``base`` a fifth of that.
        parallel: How several processes hold the model.

    Raises:
        ConfigError: There is no such recipe, ``steps`` does not name one number a run, or ``layer`` or ``num_units``
            came without ``base``.
    """
    if recipe not in RECIPES:
        raise ConfigError(f"Unknown recipe {recipe!r}. {suggest(recipe, RECIPES)}")
    if base is None and (layer is not None or num_units is not None):
        raise ConfigError(
            "A layer or a number of units was given, but no model to go on from (--from). A recipe has its own; name "
            "the model, or leave them out."
        )
    changes: dict[str, Any] = {"parallel": parallel} | ({} if microbatches is None else {"microbatches": microbatches})
    configs = tuple(replace(one, train=replace(one.train, **changes)) for one in RECIPES[recipe](seed))
    if base is not None:
        configs = (continued(configs[-1], base, layer=layer, num_units=num_units),)
    if learning_rate is not None:
        configs = tuple(replace(one, train=replace(one.train, learning_rate=learning_rate)) for one in configs)
    if iterations is None:
        named = 0 if steps is None else len(steps) - isinstance(balance, TwoStage)
        iterations = max(len(configs), named)
    configs = iterated(configs, iterations)
    if balance is not None:
        configs = balanced(configs, balance)
    return configs if steps is None else with_steps(configs, steps)


def require_possible(configs: Sequence[RunConfig], corpus: Corpus, unit_layer: int | None) -> None:
    """Refuse at once what else would fail only after hours of training.

    Args:
        configs: All runs.
        corpus: What they hear.
        unit_layer: Layer of the final encoder whose clusters become its own units; None = the targets' layer.

    Raises:
        ConfigError: The processes cannot share the batches of a step, or the final encoder has no such layer.
        DataError: No utterance is usable, or no language has as much as a subset asks for.
    """
    for config in configs:
        batches_per_process(config.train.microbatches)
        usable(corpus, config.data)
    encoder = configs[-1].encoder
    depth = 0 if isinstance(encoder, FusionConfig) else encoder.num_hidden_layers
    if unit_layer is not None and not 0 <= unit_layer <= depth:
        raise ConfigError(
            f"Layer {unit_layer} for the units of the final encoder (--unit-layer), which has {depth} layers; expected "
            f"0 (input of layer 1) to {depth}."
        )


def resolutions(recipe: str, seed: int) -> dict[str, RunConfig]:
    """Last iterations of the recipes that differ from this one in their frame rates, itself among them; or none."""
    family = next((names for names in FAMILIES if recipe in names), ())
    return {name: RECIPES[name](seed)[-1] for name in family}


Parallel = Literal["auto", "ddp", "fsdp"]
RECIPES = {
    "starter": starter,
    "hubert-base": hubert_base,
    "hubert-base-40ms": lambda seed=0: at_resolution(hubert_base(seed), 40),
    "hubert-base-80ms": lambda seed=0: at_resolution(hubert_base(seed), 80),
    "mr-hubert-base": lambda seed=0: mr_hubert(hubert_base(seed), layer=9),
    "hubert-small": hubert_small,
    "hubert-small-40ms": lambda seed=0: at_resolution(hubert_small(seed), 40),
    "hubert-small-80ms": lambda seed=0: at_resolution(hubert_small(seed), 80),
    "mr-hubert-small": lambda seed=0: mr_hubert(hubert_small(seed), layer=4),
}
FAMILIES = tuple((size, f"{size}-40ms", f"{size}-80ms", f"mr-{size}") for size in ("hubert-base", "hubert-small"))
"""Recipes that differ in their frame rates alone."""
CLEAN = DenoiseConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """What ``pretrain`` leaves."""

    model: Path
    """Model folder with heads and a codebook of its own units."""
    finished: bool
    """False when a signal stopped it; the same call goes on."""
    left_out: dict[str, int]
    """Utterances too short for training, per language."""
    disturbed: tuple[str, ...] = ()
    """What was mixed into the audio, one line each."""


def pretrain(
    corpus: Corpus | Path | str,
    *,
    out: Path,
    recipe: str = "starter",
    seed: int = 0,
    steps: tuple[int, ...] | None = None,
    iterations: int | None = None,
    balance: Balance | None = None,
    model: str | Path | None = None,
    layer: int | None = None,
    num_units: int | None = None,
    unit_layer: int | None = None,
    denoise: DenoiseConfig = CLEAN,
    microbatches: int | None = None,
    learning_rate: float | None = None,
    parallel: Parallel = "auto",
    report: Report = silent,
    tell: Tell = to_nobody,
) -> Pretrained:
    """Go through all iterations of a recipe, each of which learns units of a layer of the one before.

    What is finished in ``out`` and was made from the same settings, corpus and teacher is not made again.

    Inside :func:`~allophone.distributed.process_group` the processes of the job share the work.

    Args:
        corpus: Corpus or anything that ``Corpus.open`` reads; its training split is used.
        out: Run folder: one sub-folder an iteration or stage, and ``model/``.
        recipe: Name in :data:`RECIPES`.
        seed: Of everything that is drawn.
        steps: Updates of each iteration and stage; None = the recipe's.
        iterations: How many; None = the recipe's, or as many as ``steps`` has numbers for.
        balance: How languages are balanced; None = the recipe's own exponents.
        model: Folder or hub id of an encoder to go on from (HuBERT, WavLM, wav2vec 2.0, XLS-R, mHuBERT-147, ours); the
            recipe then gives data and optimizer settings only.
        layer: With ``model``: its hidden state whose clusters are the first targets.
        num_units: With ``model``: K of these.
        unit_layer: Layer of the final encoder whose clusters become its own units; None = the targets' layer.
        denoise: What is laid over the audio of all iterations; the head for the encoder's own units learns from clean
            audio. Sounds that cannot be used are listed in ``noise/quarantine.tsv`` and ``rooms/quarantine.tsv``.
        microbatches: Batches of one update, a multiple of the number of processes; None = the recipe's.
        learning_rate: Peak of each iteration, see :func:`recipe_configs`; None = the recipe's.
        parallel: How several processes hold the model, see :class:`~allophone.train.config.TrainConfig`.
        report: Told how far each stage is.
        tell: Told what is left out, what a run takes over from another, and what begins anew.

    Raises:
        ConfigError: The processes do not see the same ``out``; and see :func:`require_possible`.
        AllophoneError: What opening the corpus and the model, and the runs themselves, raise.
    """
    require_shared(out)
    opened = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    base = None if model is None else open_base(model)[0]
    configs = recipe_configs(
        recipe,
        seed,
        steps,
        iterations=iterations,
        balance=balance,
        base=base,
        layer=layer,
        num_units=num_units,
        microbatches=microbatches,
        learning_rate=learning_rate,
        parallel=parallel,
    )
    require_possible(configs, opened, unit_layer)
    note = left_out_note(opened, configs[0].data)
    if note is not None:
        tell(note)
    configs = with_denoising(configs, denoise)
    sounds = open_sounds(denoise, report)
    on_rank_zero(lambda: save_quarantines(sounds, out))
    notes = describe(configs[0], sounds)
    start = None
    if base is not None:
        start = Start(name=str(model), encoder=base.encoder, heads=base.heads, codebook=base.codebook)
    trained = go_through(configs, opened, out, start, sounds, report, tell)
    last, folder, finished = configs[-1], trained.folder, trained.result.stopped == "finished"
    if finished:
        layer = unit_layer if unit_layer is not None else last.targets.layer
        folder = out / "model"
        finished = hand_over(trained.folder, folder, opened, last, layer=layer, report=report)
    return Pretrained(model=folder, finished=finished, left_out=trained.left_out, disturbed=notes)


def go_through(
    configs: Sequence[RunConfig],
    corpus: Corpus,
    out: Path,
    start: Start | None,
    sounds: Sounds,
    report: Report,
    tell: Tell,
) -> Trained:
    """All runs, each from the one before; what the last one left, or the one that a signal stopped."""
    for config in configs:
        if config.continues is not None:
            start = finished_run(out / config.continues)
        of_model = config.targets.front_end == "model" and config.continues is None
        trained = execute(
            config,
            corpus,
            out / config.name,
            teacher=start.encoder if start is not None and of_model else None,
            start=start if config.warm_start or config.continues is not None else None,
            sounds=sounds,
            report=report,
            tell=tell,
        )
        if trained.result.stopped == "signal":
            break
        if config is not configs[-1]:
            start = Start(name=config.name, encoder=load_encoder(trained.folder))
    return trained
