"""What a paper adds, as the loop sees it: a model joined to its losses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from allophone.batch import SpeechBatch, Texts
from allophone.errors import DataError


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One micro-batch's contribution."""

    loss_sum: Tensor
    """What is differentiated, summed and not yet divided. Shape ``()``."""
    sums: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """For the journal: name to (sum, count), both detached, shape ``()``."""


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that share their optimizer settings."""

    parameters: tuple[nn.Parameter, ...]
    lr_scale: float = 1.0
    """Factor on the schedule's learning rate."""
    weight_decay: float | None = None
    """None = the run's."""


class Method(Protocol):
    """A paper's method; in practice an ``nn.Module``. It knows no optimizer, no files and no ranks."""

    def count(self, batch: SpeechBatch) -> Tensor:
        """Items this batch adds to the denominator of the loss. Shape ``()``, int64. Known before any forward pass."""
        ...

    def step(self, batch: SpeechBatch) -> StepOutput:
        """Forward pass of one micro-batch."""
        ...

    def parameter_groups(self) -> list[ParameterGroup]:
        """Everything that is trained."""
        ...

    def artifact(self) -> nn.Module:
        """What a user takes away: the encoder, without heads."""
        ...


def decaying_groups(parameters: Iterable[nn.Parameter], lr_scale: float) -> list[ParameterGroup]:
    """Matrices with the run's weight decay, everything else with none, all at one rate; no group is empty."""
    every = tuple(parameters)
    matrices, vectors = tuple(p for p in every if p.ndim > 1), tuple(p for p in every if p.ndim <= 1)
    groups = [ParameterGroup(matrices, lr_scale), ParameterGroup(vectors, lr_scale, weight_decay=0.0)]
    return [group for group in groups if group.parameters]


def freeze_unused(encoder: nn.Module, trained: bool) -> None:
    """Freeze the vector that stands for hidden frames, as none are hidden, and all of the encoder if not trained."""
    for name, parameter in encoder.named_parameters():
        if not trained or name.endswith("masked_spec_embed"):
            parameter.requires_grad_(False)


def texts_of(batch: SpeechBatch, who: str) -> Texts:
    """What the utterances of a batch say.

    Raises:
        DataError: The batch has no texts; ``who`` says in the message that it needs them.
    """
    if batch.texts is None:
        raise DataError(f"{who} needs texts; this batch was collated without them (give the stream some).")
    return batch.texts
