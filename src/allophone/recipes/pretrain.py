"""Complete pretraining runs, and the command that goes through their iterations."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from allophone.audio.augment import AugmentConfig
from allophone.data.collate import CollateConfig
from allophone.data.corpus import Corpus
from allophone.distributed import on_rank_zero, require_shared
from allophone.errors import ConfigError, suggest
from allophone.methods.language_expansion import initialize_table
from allophone.methods.masked_prediction import MaskedPrediction
from allophone.models.conversion import load_encoder, save_encoder
from allophone.models.hubert import published_config
from allophone.models.lasr import LasrConfig
from allophone.run.config import DataConfig, RunConfig, TargetsConfig
from allophone.run.execute import (
    Report,
    build_stream,
    execute,
    load_finished,
    prepare_targets,
    save_heads,
    silent,
    usable,
)
from allophone.train.config import TrainConfig
from allophone.train.loop import train
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
    """HuBERT Base as published: MFCC, K = 100 for 250k updates, then layer 6, K = 500 for 400k (arXiv:2106.07447)."""
    collate = CollateConfig(crop_seconds=15.6)
    train = TrainConfig(steps=250_000, learning_rate=5e-4, warmup_steps=32_000, save_every=5_000, seed=seed)
    first = RunConfig(
        name="iteration-1",
        seed=seed,
        encoder=published_config("hubert-base"),
        targets=TargetsConfig(front_end="mfcc39", num_units=100, fit_hours=96.0),
        data=DataConfig(collate=collate, batch_seconds=87.5, min_seconds=2.0),
        train=train,
    )
    targets = TargetsConfig(front_end="model", layer=6, num_units=500, fit_hours=96.0)
    return first, replace(first, name="iteration-2", targets=targets, train=replace(train, steps=400_000))


def recipe_configs(
    recipe: str,
    seed: int,
    steps: tuple[int, ...] | None = None,
    *,
    microbatches: int | None = None,
    parallel: Parallel = "auto",
) -> tuple[RunConfig, ...]:
    """All iterations of a recipe, with other settings where they are given.

    Args:
        recipe: Name in :data:`RECIPES`.
        seed: Of everything that is drawn.
        steps: Updates of each iteration.
        microbatches: Batches of one update, those of all processes together.
        parallel: How several processes hold the model.

    Raises:
        ConfigError: There is no such recipe, or ``steps`` does not name one number an iteration.
    """
    if recipe not in RECIPES:
        raise ConfigError(f"Unknown recipe {recipe!r}. {suggest(recipe, RECIPES)}")
    changes: dict[str, Any] = {"parallel": parallel} | ({} if microbatches is None else {"microbatches": microbatches})
    configs = tuple(replace(one, train=replace(one.train, **changes)) for one in RECIPES[recipe](seed))
    if steps is None:
        return configs
    if len(steps) != len(configs):
        raise ConfigError(f"Recipe {recipe!r} has {len(configs)} iterations, but --steps names {len(steps)} numbers.")
    return tuple(
        replace(one, train=replace(one.train, steps=count, warmup_steps=min(one.train.warmup_steps, count // 10)))
        for one, count in zip(configs, steps, strict=True)
    )


Parallel = Literal["auto", "ddp", "fsdp"]
HEAD_STEPS = 600
"""Updates of the head for the final encoder's own units; the encoder is frozen."""

CARD = """# Encoder pretrained by allophone

Masked prediction of discrete units, last iteration {steps} updates. `codebook.safetensors` holds {num_units} units of
layer {layer}; `heads.safetensors` the projection and label table that predict them. Opens in `transformers`.

Audio heard, hours: {hours}.
"""

RECIPES = {"starter": starter, "hubert-base": hubert_base}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """What ``pretrain`` leaves."""

    model: Path
    """Model folder with heads and a codebook of its own units."""
    finished: bool
    """False when a signal stopped it; the same call goes on."""
    left_out: dict[str, int]
    """Utterances too short for training, per language."""


def pretrain(
    corpus: Corpus | Path | str,
    *,
    out: Path,
    recipe: str = "starter",
    seed: int = 0,
    steps: tuple[int, ...] | None = None,
    unit_layer: int | None = None,
    microbatches: int | None = None,
    parallel: Parallel = "auto",
    report: Report = silent,
) -> Pretrained:
    """Go through all iterations of a recipe; iteration 2 learns units of a layer of the first.

    Inside :func:`~allophone.distributed.process_group` the processes of the job share the work.

    Args:
        corpus: Corpus or anything that ``Corpus.open`` reads; its training split is used.
        out: Run folder: one sub-folder an iteration, and ``model/``.
        recipe: Name in :data:`RECIPES`.
        seed: Of everything that is drawn.
        steps: Updates of each iteration; None = the recipe's.
        unit_layer: Layer of the final encoder whose clusters become its own units; None = the targets' layer.
        microbatches: Batches of one update, a multiple of the number of processes; None = the recipe's.
        parallel: How several processes hold the model, see :class:`~allophone.train.config.TrainConfig`.
        report: Told how far each stage is.

    Raises:
        ConfigError: The processes cannot share the batches of a step, or do not see the same ``out``.
        AllophoneError: What the stages raise.
    """
    require_shared(out)
    opened = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    configs = recipe_configs(recipe, seed, steps, microbatches=microbatches, parallel=parallel)
    for config in configs:
        batches_per_process(config.train.microbatches)  # refuse now, not after hours of clustering
    teacher, left_out = None, {}
    for config in configs:
        run_dir = out / config.name
        finished = load_finished(run_dir / "model")
        if finished is None:
            trained = execute(config, opened, run_dir, teacher=teacher, report=report)
            left_out = trained.left_out
            if trained.result.stopped == "signal":
                return Pretrained(model=trained.folder, finished=False, left_out=left_out)
            finished = load_encoder(trained.folder)
        teacher = finished
    assert teacher is not None
    last = configs[-1]
    layer = unit_layer if unit_layer is not None else (last.targets.layer or teacher.num_layers // 2)
    model = finish(out / last.name / "model", out / "model", opened, last, layer=layer, report=report)
    return Pretrained(model=model, finished=True, left_out=left_out)


def finish(
    trained: Path, folder: Path, corpus: Corpus, config: RunConfig, *, layer: int, report: Report = silent
) -> Path:
    """Give a trained encoder its own units, a head for them, and write the folder that is handed over.

    The targets of the last iteration are units of an encoder that is not handed over. So the final encoder's own
    layer is clustered, and projection and label table are trained for these units on the frozen encoder.

    Args:
        trained: Model folder of the last iteration.
        folder: Where to; weights in half precision.
        corpus: What codebook and head are fitted on.
        config: The last iteration.
        layer: Hidden state that is clustered.
        report: Told how far each stage is.
    """
    source = load_encoder(trained)
    training, _ = usable(corpus, config.data)
    hours = ", ".join(f"{language} {value:.2f}" for language, value in sorted(training.hours().items()))
    card = CARD.format(hours=hours, steps=config.train.steps, layer=layer, num_units=config.targets.num_units)
    on_rank_zero(lambda: save_encoder(source, folder, card, created_by="allophone pretrain", dtype=torch.float16))
    encoder = load_encoder(folder)
    targets = replace(config.targets, layer=layer)
    head_dir = folder.parent / "head"
    codebook, units = prepare_targets(
        training, targets, head_dir / "targets", seed=config.seed, teacher=encoder, report=report
    )
    head = replace(
        config,
        targets=targets,
        train=replace(config.train, steps=HEAD_STEPS, warmup_steps=HEAD_STEPS // 10, learning_rate=3e-3),
    )
    method = MaskedPrediction(encoder, head.method())
    encoder.requires_grad_(False)
    stream = build_stream(training, units, encoder, head)
    initialize_table(method, [stream.batch(stream.state())])
    with closing(stream):
        train(method, stream, head.train, head_dir, identity={"codebook": codebook.hash}, progress=report("Head"))

    def hand_over() -> None:
        save_heads(method.half(), folder)
        codebook.save(folder)

    on_rank_zero(hand_over)
    return folder
