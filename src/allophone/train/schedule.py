"""Learning rate as a pure function of the step; nothing to save or restore."""

from __future__ import annotations

import math

from allophone.errors import ConfigError
from allophone.train.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate of one update.

    Args:
        step: Number of the update, 1 to ``config.steps``.
        config: Peak, warm-up, shape and end of the schedule.

    Returns:
        ``config.learning_rate`` times a factor: ``step / warmup_steps`` in the warm-up, 1 at its end, then along
        ``config.schedule`` down to ``config.final_lr_scale`` at the last step.

    Raises:
        ConfigError: ``step`` is outside the run.

    Example:
        >>> learning_rate(5, TrainConfig(steps=100, learning_rate=1.0, warmup_steps=10))
        0.5
    """
    if not 1 <= step <= config.steps:
        raise ConfigError(f"Step {step} is outside the run of {config.steps} steps.")
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    hold = config.hold_steps if config.schedule == "tri_stage" else 0
    decay_steps = config.steps - config.warmup_steps - hold
    done = max(0, step - config.warmup_steps - hold) / decay_steps if decay_steps else 0.0
    return config.learning_rate * _decay(done, config)


def _decay(done: float, config: TrainConfig) -> float:
    """Factor on the peak after the share ``done`` of the decay."""
    final = config.final_lr_scale
    match config.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - (1.0 - final) * done
        case "cosine":
            return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * done))
        case "tri_stage":
            return float(final**done)
