"""Everything the loop needs to know about a run that is not the method's and not the data's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from allophone.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Length, optimizer, precision and saving of one run."""

    steps: int
    """Updates of the weights (HuBERT Base 400,000)."""
    microbatches: int = 1
    """Batches that are added up before each update, by all processes together; a multiple of their number."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several processes hold the model: whole on each, in shards, or in shards where it would fill half a GPU."""
    learning_rate: float = 5e-4
    """Peak of the schedule (HuBERT Base 5e-4)."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises linearly from 0 (HuBERT 8 percent of the run)."""
    schedule: Literal["constant", "linear", "cosine", "tri_stage"] = "linear"
    """Way from the peak to ``final_lr_scale``; ``tri_stage`` holds for ``hold_steps``, then decays exponentially."""
    hold_steps: int = 0
    """Steps at the peak after the warm-up; ``tri_stage`` only."""
    final_lr_scale: float = 0.0
    """Learning rate of the last step over the peak; above 0 for ``tri_stage`` (wav2vec 2.0: 0.05)."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Adam's decay of first and second moments (HuBERT)."""
    eps: float = 1e-6
    """Adam's epsilon (HuBERT)."""
    weight_decay: float = 0.01
    """Decoupled weight decay (HuBERT), where a parameter group does not say otherwise."""
    max_grad_norm: float = 10.0
    """Gradient norm above which gradients are scaled down (HuBERT Base 10); 0 never scales."""
    bf16: Literal["auto", "off", "on"] = "auto"
    """bfloat16 autocast: where the device has it, never, or an error where it has not."""
    log_every: int = 50
    """Steps between lines of the journal."""
    save_every: int = 500
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Checkpoints kept."""
    tensorboard: bool = True
    """Write TensorBoard event files beside ``metrics.jsonl``."""
    seed: int = 0
    """Seed of dropout; data have their own in the sampler."""

    def __post_init__(self) -> None:
        positive = {name: getattr(self, name) for name in ("steps", "microbatches", "log_every", "save_every")}
        for name, value in (positive | {"keep_checkpoints": self.keep_checkpoints}).items():
            if value < 1:
                raise ConfigError(f"train.{name} must be at least 1; got {value}.")
        if not self.learning_rate > 0 or not 0 <= self.final_lr_scale <= 1:
            raise ConfigError(
                f"train.learning_rate must be positive and train.final_lr_scale within [0, 1]; "
                f"got {self.learning_rate} and {self.final_lr_scale}."
            )
        if not 0 <= self.warmup_steps + self.hold_steps <= self.steps or min(self.warmup_steps, self.hold_steps) < 0:
            raise ConfigError(
                f"train.warmup_steps ({self.warmup_steps}) and train.hold_steps ({self.hold_steps}) must be at least 0 "
                f"and fit into train.steps ({self.steps})."
            )
        if self.schedule == "tri_stage" and self.final_lr_scale == 0:
            raise ConfigError("train.schedule 'tri_stage' decays exponentially and needs train.final_lr_scale above 0.")

    def shortened(self, steps: int) -> TrainConfig:
        """Another number of updates, with phases of the same shares."""
        share = steps / self.steps
        return replace(
            self, steps=steps, warmup_steps=int(self.warmup_steps * share), hold_steps=int(self.hold_steps * share)
        )
