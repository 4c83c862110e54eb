"""Speech translation: what is said in one language is written in another.

Source: Khurana et al. 2023, arXiv:2306.00789: label smoothing, Adam, a learning rate in three phases; frozen parts with
adapters are the model's own matter (:mod:`allophone.models.speech_translator`). Numbers that the paper leaves out are
those of the public port: smoothing 0.1, a tenth of the run to warm up, four tenths at the peak, the rest to decay.

Deviations from the paper: the loss is divided by the target tokens of all batches of a step together.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from allophone.batch import SpeechBatch
from allophone.errors import ConfigError
from allophone.losses.sequence import IGNORED, smoothed_cross_entropy
from allophone.methods.base import ParameterGroup, StepOutput, decaying_groups, texts_of
from allophone.models.frozen import FrozenStates
from allophone.models.speech_translator import SpeechTranslator


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechTranslationConfig:
    """The loss, and how fast the parts learn."""

    smoothing: float = 0.1
    """Share of the target that is spread over the vocabulary."""
    pretrained_lr_scale: float = 0.1
    """Learning rate of what is trained inside encoder and decoder, without adapters, over the run's (port: 0.1)."""
    max_target_tokens: int | None = 200
    """Longer texts are cut, language and end included; None = as many as the decoder can."""

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1 or not self.pretrained_lr_scale > 0:
            raise ConfigError(
                f"Translation needs 0 <= smoothing < 1 and pretrained_lr_scale > 0; got {self.smoothing} and "
                f"{self.pretrained_lr_scale}."
            )


@dataclass(frozen=True, slots=True)
class Phases:
    """A learning rate that rises, holds and decays, as ``train.TrainConfig`` takes it with schedule ``tri_stage``."""

    warmup_steps: int
    """It rises."""
    hold_steps: int
    """It stays."""
    final_lr_scale: float = 0.05
    """What is left of it at the end (wav2vec 2.0)."""


def three_phases(steps: int, shares: tuple[float, float] = (0.1, 0.4)) -> Phases:
    """Three phases of a run.

    Args:
        steps: Updates of the run.
        shares: Of the run for the warm-up and at the peak (the port: 8,000 and 32,000 of 80,000).

    Raises:
        ConfigError: A share is negative, or nothing is left to decay.

    Example:
        >>> three_phases(80_000)
        Phases(warmup_steps=8000, hold_steps=32000, final_lr_scale=0.05)
    """
    if min(shares) < 0 or sum(shares) >= 1:
        raise ConfigError(f"Shares {shares} of a run; expected two of at least 0 that leave something to decay.")
    return Phases(round(shares[0] * steps), round(shares[1] * steps))


class SpeechTranslation(nn.Module):
    """A translator and its loss.

    Args:
        model: The translator.
        config: The loss.
        frozen: The last states of an encoder of which nothing is trained, computed once for each utterance; None = it
            is run in every step.
        new_decoder: Whether the decoder is made from nothing, so that it learns at the run's rate whatever is trained.

    Raises:
        ConfigError: States are frozen of an encoder of which something is trained.
    """

    def __init__(
        self,
        model: SpeechTranslator,
        config: SpeechTranslationConfig,
        *,
        frozen: FrozenStates | None = None,
        new_decoder: bool = False,
    ) -> None:
        super().__init__()
        if frozen is not None and not model.config.leaves_encoder_alone:
            raise ConfigError("The states of an encoder that is trained or has adapters change: frozen must be None.")
        self.config = config
        self.model = model
        self._frozen = frozen
        self._new_decoder = new_decoder or model.config.training == "decoder"

    def count(self, batch: SpeechBatch) -> Tensor:
        """Target tokens of the batch, languages and ends included. Shape ``()``, int64."""
        texts = texts_of(batch, "Translation")
        targets = self.model.decoder.targets(texts.texts, texts.languages, self.config.max_target_tokens)
        return (targets.labels != IGNORED).sum().cpu()

    def step(self, batch: SpeechBatch) -> StepOutput:
        """Smoothed cross-entropy of one batch.

        Raises:
            DataError: The batch has no texts, or the decoder has no token for a language.
        """
        texts = texts_of(batch, "Translation")
        targets = self.model.decoder.targets(texts.texts, texts.languages, self.config.max_target_tokens)
        if self._frozen is None:
            logits = self.model(batch.waveform, batch.waveform_lengths, targets.inputs)
        else:
            (hidden,) = self._frozen(batch.waveform, batch.waveform_lengths)
            logits = self.model.decoder(*self.model.shorten(hidden), targets.inputs)
        found = smoothed_cross_entropy(logits, targets.labels, self.config.smoothing)
        sums = {"nll": (found.nll_sum, found.tokens), "token_accuracy": (found.hits, found.tokens)}
        return StepOutput(loss_sum=found.loss_sum, sums=sums)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Matrices with the run's weight decay, all else with none; what is pretrained at its own rate."""
        parts = [self.model.length_adaptor, self.model.adapters]
        parts += [self.model.decoder] if self._new_decoder else []
        new = {id(p) for part in parts for p in part.parameters()}
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = decaying_groups((p for p in trained if id(p) in new), 1.0)
        return groups + decaying_groups((p for p in trained if id(p) not in new), self.config.pretrained_lr_scale)

    def artifact(self) -> nn.Module:
        """The translator."""
        return self.model
