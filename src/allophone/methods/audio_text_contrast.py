"""Audio-text contrast: recordings and the texts that are true of them become neighbors, others are kept apart.

Source: CLARA, arXiv:2310.11830 (its losses are CLIP's, arXiv:2103.00020); the sigmoid loss is SigLIP's,
arXiv:2303.15343. Shape letters: B rows of this process, N rows of all, E dim of the embeddings.

Deviations from the paper: it says nothing of negatives on other processes, and its code contrasts the 16 clips of one
GPU; here a batch is contrasted with those of all processes, and its size is not bound by memory. One temperature, with
a lower bound, instead of two without. A caption is a positive for every recording it is true of, in whatever language.
Encoders are packed speech encoders and multilingual text encoders, with attention pooling over real frames.

A contrast spans the batches that all processes hold at the same time; micro-batches of one process are contrasted one
after another. So W processes with one batch each are one process with a batch of W times the size, and a batch larger
than memory is made by ``chunk_rows``, not by micro-batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from allophone.batch import Captions, SpeechBatch
from allophone.errors import ConfigError, DataError
from allophone.losses.contrastive import (
    ContrastiveSums,
    Pairs,
    embed_in_chunks,
    gather_pairs,
    infonce_loss,
    sigmoid_loss,
)
from allophone.methods.base import ParameterGroup, StepOutput, decaying_groups, freeze_unused
from allophone.models.frozen import FrozenStates
from allophone.models.speech_embedder import SpeechEmbedder
from allophone.models.text_embedder import TextEmbedder


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioTextContrastConfig:
    """The loss, and what of the speech tower is trained; the text tower's own config says it for the text tower."""

    loss: Literal["infonce", "sigmoid"] = "infonce"
    """Cross-entropy over the batch, both ways, or every pair by itself."""
    temperature: float = 0.07
    """Where the learned temperature starts (CLIP 0.07, SigLIP 0.1)."""
    min_temperature: float = 0.01
    """The temperature never gets lower (CLIP: 1 / 100)."""
    bias: float = -10.0
    """Where the learned bias of the sigmoid loss starts (SigLIP -10)."""
    train_encoder: bool = True
    """Whether the speech encoder is trained, or only what stands behind it."""
    remember_gibibytes: float = 4.0
    """Memory for what a frozen speech encoder made of recordings; what it heard before is not computed again."""
    text_lr_scale: float = 1.0
    """Learning rate of the text encoder (or its LoRA) over the run's."""
    chunk_rows: int = 64
    """Rows embedded at once; a larger batch is embedded in chunks, twice, and needs the memory of one chunk."""

    def __post_init__(self) -> None:
        if not 0 < self.min_temperature <= self.temperature or self.chunk_rows < 1:
            raise ConfigError(
                f"Contrast needs 0 < min_temperature <= temperature and chunk_rows >= 1; got {self.min_temperature}, "
                f"{self.temperature} and {self.chunk_rows}."
            )
        if self.remember_gibibytes < 0:
            raise ConfigError(f"remember_gibibytes is {self.remember_gibibytes}; expected 0 (keep nothing) or more.")


class AudioTextContrast(nn.Module):
    """Two towers with a temperature.

    Args:
        speech: Embeds recordings.
        text: Embeds texts into as many dims.
        config: The loss.

    Raises:
        ConfigError: The towers' embeddings differ in dims.
    """

    def __init__(self, speech: SpeechEmbedder, text: TextEmbedder, config: AudioTextContrastConfig) -> None:
        super().__init__()
        if speech.dim != text.dim:
            raise ConfigError(f"Embeddings have {speech.dim} dims for speech and {text.dim} for text; make them equal.")
        self.config = config
        self.speech = speech
        self.text = text
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))
        self.bias = nn.Parameter(torch.tensor(config.bias)) if config.loss == "sigmoid" else None
        freeze_unused(speech.encoder, config.train_encoder)
        depth = speech.encoder.num_layers
        first = depth if speech.layer_weights is None else 0
        room = int(config.remember_gibibytes * 2**30)
        self._frozen = FrozenStates(speech.encoder, range(first, depth + 1), most_bytes=room)

    def train(self, mode: bool = True) -> AudioTextContrast:
        """As any module, but a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if not self.config.train_encoder:
            self.speech.encoder.eval()
        return self

    def count(self, batch: SpeechBatch) -> Tensor:
        """Recordings of the batch. Shape ``()``, int64."""
        return torch.tensor(len(batch.ids))

    def step(self, batch: SpeechBatch) -> StepOutput:
        """Loss of this process' recordings and texts against those of all; every process must call it.

        Raises:
            DataError: The batch has no captions.
        """
        if self.training:
            with torch.no_grad():
                self.log_temperature.clamp_(min=math.log(self.config.min_temperature))
        captions = _captions(batch)
        pairs = gather_pairs(self._embed_speech(batch), self._embed_texts(captions), captions.stated, captions.known)
        found = self._loss(pairs)
        rows = torch.tensor(len(batch.ids))
        sums = {
            "accuracy_text_of_audio": (found.audio_hits, rows),
            "accuracy_audio_of_text": (found.text_hits, rows),
            "chance_accuracy": (pairs.audio_matches.float().mean(dim=1).sum(), rows),
            "contrasted": (rows * len(pairs.all_text), rows),
            "temperature": (self.log_temperature.detach().exp() * rows, rows),
        }
        return StepOutput(loss_sum=found.loss_sum, sums=sums)

    def _loss(self, pairs: Pairs) -> ContrastiveSums:
        temperature = self.log_temperature.exp()
        if self.bias is None:
            return infonce_loss(pairs, temperature)
        return sigmoid_loss(pairs, temperature, self.bias)

    def _embed_speech(self, batch: SpeechBatch) -> Tensor:
        """Shape ``(B, E)``."""
        rows = self.config.chunk_rows
        if not self.config.train_encoder:
            return self.speech.pool(self._frozen(batch.waveform, batch.waveform_lengths))
        parts = zip(batch.waveform.split(rows), batch.waveform_lengths.split(rows), strict=True)
        return embed_in_chunks(self.speech, [(waveform, lengths) for waveform, lengths in parts])

    def _embed_texts(self, captions: Captions) -> Tensor:
        """Shape ``(B, E)``."""
        rows, texts = self.config.chunk_rows, captions.texts
        if self.text.config.training == "frozen":
            return self.text.embed_again(texts)
        starts = range(0, len(texts), rows)
        return embed_in_chunks(self.text, [self.text.tokenize(texts[start : start + rows]) for start in starts])

    def parameter_groups(self) -> list[ParameterGroup]:
        """Matrices with the run's weight decay, everything else with none; the text encoder at its own rate."""
        text = {id(parameter) for parameter in self.text.encoder.parameters()}
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        others = decaying_groups((parameter for parameter in trained if id(parameter) not in text), 1.0)
        return others + decaying_groups((p for p in trained if id(p) in text), self.config.text_lr_scale)

    def artifact(self) -> nn.Module:
        """The speech embedder."""
        return self.speech


def _captions(batch: SpeechBatch) -> Captions:
    if batch.captions is None:
        raise DataError(
            "Contrast with text needs captions; this batch was collated without them (give the stream some)."
        )
    return batch.captions
