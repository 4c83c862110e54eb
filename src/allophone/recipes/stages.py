"""Which runs a pretraining consists of: its iterations, how languages are balanced in them, and where they begin.

Each function takes the runs of a recipe and returns more or other ones; nothing here trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from allophone.data.balance import BalancedSubset, TemperatureSampling, TwoLevelUpsampling
from allophone.errors import ConfigError, suggest
from allophone.models.multi_resolution import FusionConfig
from allophone.nn.masking import span_frames
from allophone.run.base import Base
from allophone.run.config import RunConfig, TargetsConfig

CONTINUED_SCALE = 0.2
"""Peak learning rate of a trained encoder over that of a fresh one: 1e-4 where HuBERT Base has 5e-4."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoStage:
    """Everything as it is, then on with a balanced subset.

    Source: WavLabLM-MS, arXiv:2309.15317, section 3.3. It trains 22 epochs on 39,000 h, then 5 on about 2,000 h; the
    second stage's learning rate and warm-up were not published, those below are ours.
    """

    subset: BalancedSubset
    """What the second stage hears."""
    steps_share: float = 0.1
    """Updates of the second stage over those of the last iteration."""
    learning_rate_scale: float = CONTINUED_SCALE
    """Peak of the second stage over that of the last iteration."""
    warmup_share: float = 0.1
    """Part of the second stage in which its learning rate rises again from 0."""


Balance = TemperatureSampling | TwoLevelUpsampling | TwoStage
NATURAL = TemperatureSampling(alpha=1.0)
"""Every second of audio as often as every other."""
BALANCES = ("none", "temperature", "two-stage", "upsampling")


def named_balance(
    name: str,
    *,
    alpha: float | None = None,
    beta: float | None = None,
    subset_hours: float | None = None,
    seed: int = 0,
) -> Balance:
    """How languages are balanced, from what a user writes.

    Args:
        name: ``none``, ``temperature``, ``upsampling`` or ``two-stage``.
        alpha: Exponent between languages; ``temperature`` (default 0.5) and ``upsampling`` (0.7) only.
        beta: Exponent between the sources of a language; ``upsampling`` (0.9) only.
        subset_hours: Hours of each language in the second stage; ``two-stage`` only. None = those of the smallest.
        seed: Of the subset.

    Raises:
        ConfigError: The name is unknown, a setting is out of range or belongs to another balance.
    """
    if name not in BALANCES:
        raise ConfigError(f"Unknown language balance {name!r}. {suggest(name, BALANCES)}")
    owners = {"alpha": ("temperature", "upsampling"), "beta": ("upsampling",), "subset_hours": ("two-stage",)}
    for setting, value in (("alpha", alpha), ("beta", beta), ("subset_hours", subset_hours)):
        if value is not None and name not in owners[setting]:
            raise ConfigError(
                f"{setting} = {value:g} has no meaning for the language balance {name!r}; it belongs to "
                f"{' and '.join(owners[setting])}. Leave it out, or choose that balance."
            )
    match name:
        case "temperature":
            return TemperatureSampling() if alpha is None else TemperatureSampling(alpha=alpha)
        case "upsampling":
            law = TwoLevelUpsampling()
            return TwoLevelUpsampling(
                alpha=law.alpha if alpha is None else alpha, beta=law.beta if beta is None else beta
            )
        case "two-stage":
            return TwoStage(subset=BalancedSubset(hours=subset_hours, seed=seed))
        case _:
            return NATURAL


def balanced(configs: Sequence[RunConfig], balance: Balance) -> tuple[RunConfig, ...]:
    """The same iterations under a law of sampling; :class:`TwoStage` hears all as it is and appends a second stage."""
    if isinstance(balance, TwoStage):
        natural = balanced(configs, NATURAL)
        return (*natural, second_stage(natural[-1], balance))
    beta = balance.beta if isinstance(balance, TwoLevelUpsampling) else 1.0
    return tuple(replace(one, data=replace(one.data, alpha=balance.alpha, beta=beta)) for one in configs)


def second_stage(first: RunConfig, stage: TwoStage) -> RunConfig:
    """The run that goes on from ``first`` on the balanced subset: same model, heads and targets, new optimizer."""
    steps = max(1, round(stage.steps_share * first.train.steps))
    return replace(
        first,
        name=f"{first.name}-balanced",
        data=replace(first.data, subset=stage.subset),
        train=replace(
            first.train,
            steps=steps,
            learning_rate=stage.learning_rate_scale * first.train.learning_rate,
            warmup_steps=round(stage.warmup_share * steps),
        ),
        warm_start=False,
        continues=first.name,
    )


def iterated(configs: Sequence[RunConfig], iterations: int) -> tuple[RunConfig, ...]:
    """The first iterations of a recipe, and beyond its last one repetitions of that.

    From the third on, the layer at three quarters of the depth is clustered, as in HuBERT Large and mHuBERT-147 (layer
    9 of 12, arXiv:2106.07447, arXiv:2406.06371).

    Raises:
        ConfigError: ``iterations`` is below 1.
    """
    if iterations < 1:
        raise ConfigError(f"A pretraining has at least one iteration; got {iterations}.")
    found = list(configs[:iterations])
    while len(found) < iterations:
        last = found[-1]
        assert not isinstance(last.encoder, FusionConfig)  # joins trained encoders; no recipe trains one
        layer = max(1, round(0.75 * last.encoder.num_hidden_layers))
        targets = replace(last.targets, front_end="model", layer=layer, labels_per_frame=1)
        found.append(replace(last, name=f"iteration-{len(found) + 1}", targets=targets))
    return tuple(found)


def continued(recipe: RunConfig, base: Base, *, layer: int | None = None, num_units: int | None = None) -> RunConfig:
    """An iteration that goes on from a trained encoder, with the data and optimizer settings of a recipe's last one.

    Its own units are fitted on a layer of the encoder. The peak learning rate is a fifth of the recipe's.

    Args:
        recipe: Gives all that the encoder does not.
        base: The encoder, with codebook and heads where it has them.
        layer: Hidden state that is clustered; None = that of the encoder's codebook, or the middle one.
        num_units: K; None = as many as its codebook has, or 500.

    Raises:
        ConfigError: The encoder has no such layer.
    """
    layer = base.unit_layer() if layer is None else layer
    if not 0 <= layer <= base.encoder.num_layers:
        depth = base.encoder.num_layers
        raise ConfigError(f"Layer {layer} of an encoder with {depth} layers; expected 0 (input of layer 1) to {depth}.")
    learning_rate = CONTINUED_SCALE * recipe.train.learning_rate
    collate = replace(recipe.data.collate, mask_length=span_frames(base.encoder.clock))
    return replace(
        recipe,
        name="iteration-1",
        encoder=base.encoder.config,
        targets=TargetsConfig(
            front_end="model",
            layer=layer,
            num_units=base.num_units() if num_units is None else num_units,
            normalization=recipe.targets.normalization,
            iterations=recipe.targets.iterations,
            fit_hours=recipe.targets.fit_hours,
        ),
        data=replace(recipe.data, collate=collate),
        train=replace(recipe.train, learning_rate=learning_rate),
        projection_dim=base.heads["label_embeddings"].shape[1] if base.heads is not None else recipe.projection_dim,
        warm_start=True,
    )


def with_steps(configs: Sequence[RunConfig], steps: Sequence[int]) -> tuple[RunConfig, ...]:
    """The same runs with other numbers of updates; warm-ups become at most a tenth of them.

    Raises:
        ConfigError: ``steps`` does not name one number a run.
    """
    if len(steps) != len(configs):
        names = ", ".join(config.name for config in configs)
        raise ConfigError(
            f"This pretraining has {len(configs)} runs ({names}), but --steps names {len(steps)} numbers. Name one a "
            f"run; --iterations changes how many there are."
        )
    return tuple(
        replace(one, train=replace(one.train, steps=count, warmup_steps=min(one.train.warmup_steps, count // 10)))
        for one, count in zip(configs, steps, strict=True)
    )
