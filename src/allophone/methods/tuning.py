"""What the ways to tune an encoder have in common: which weights are trained, how fast, and how a batch is embedded.

Where only the last layers are trained, the frozen ones hear every utterance once and whole, without dropout; what they
say is kept in memory, and crops are taken of it. Shape letters: B rows of this process, S samples, T frames, D dim of
the encoder. LoRA: Hu et al. 2021, arXiv:2106.09685, through PEFT.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from allophone.batch import Labels, Packed, SpeechBatch
from allophone.errors import ConfigError, DataError, NumericsError
from allophone.losses.contrastive import embed_in_chunks
from allophone.methods.base import ParameterGroup, decaying_groups
from allophone.models.continuation import last_state, layers_of
from allophone.models.frozen import FrozenStates
from allophone.models.speech_embedder import SpeechEmbedder

MERGE_TOLERANCE = 1e-4
"""Largest difference that merging the adapter may make to an embedding, over its length."""
FRONT_END = "feature_extractor."
"""Begins the names of the convolutions over the waveform."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningConfig:
    """What of the encoder is trained, and when."""

    training: Literal["full", "lora", "last"] = "full"
    """All weights, LoRA on some linear layers, or the last layers."""
    last_layers: int = 2
    """Layers of ``last``, from the top."""
    lora_rank: int = 16
    """Rank of LoRA's updates; they are scaled by 1."""
    lora_layers: tuple[str, ...] = ()
    """Names of the linear layers that get LoRA."""
    encoder_lr_scale: float = 0.1
    """Learning rate of the encoder's weights over the run's, which heads and LoRA have."""
    train_front_end: bool = False
    """Whether ``full`` trains the convolutions over the waveform too."""
    head_only_batches: int = 0
    """Batches of the run, from its first, from which only what stands behind the encoder learns."""
    chunk_rows: int = 64
    """Rows embedded at once; a larger batch is embedded in chunks, twice, and needs the memory of one chunk."""
    crop_frames: int | None = None
    """Of ``last``: longest piece of an utterance's states that trained layers hear in training; None = all of it."""

    def __post_init__(self) -> None:
        if min(self.last_layers, self.lora_rank, self.chunk_rows) < 1 or self.head_only_batches < 0:
            raise ConfigError(
                f"Tuning needs last_layers, lora_rank and chunk_rows of at least 1 and no negative batches; got {self}."
            )
        if not self.encoder_lr_scale > 0 or (self.training == "lora" and not self.lora_layers):
            raise ConfigError(
                f"Tuning needs a positive encoder_lr_scale ({self.encoder_lr_scale}) and, for LoRA, lora_layers "
                f"({self.lora_layers})."
            )


class TunedEmbedder(nn.Module):
    """A speech embedder of which some weights are trained.

    Args:
        speech: Embeds recordings; it is changed in place.
        config: What is trained.
        frozen: Of ``last``: the layers below the trained ones, shared with others; None = a copy of its own.

    Raises:
        ConfigError: The encoder has no such layers, or more than the last state is pooled.
    """

    def __init__(self, speech: SpeechEmbedder, config: TuningConfig, frozen: FrozenStates | None = None) -> None:
        super().__init__()
        self.config = config
        self.speech = speech
        encoder = speech.encoder
        encoder.requires_grad_(config.training == "full")
        self._adapter: tuple[PeftModel, ...] = ()  # in a tuple, so that its weights are not saved twice
        if config.training == "lora":
            rank = config.lora_rank
            settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(config.lora_layers), bias="none")
            try:
                self._adapter = (get_peft_model(encoder, settings),)
            except ValueError as error:
                raise ConfigError(
                    f"No layer named {config.lora_layers} in {type(encoder).__name__}: {error}"
                ) from error
        self._frozen: FrozenStates | None = None  # no module, so that its weights are not saved twice
        if config.training == "last":
            self._frozen = frozen or frozen_layers(speech, config.last_layers)
            layers_of(encoder)[self._frozen.layers[0] :].requires_grad_(True)
        for name, parameter in encoder.named_parameters():
            hides = name.endswith("masked_spec_embed")  # stands for hidden frames, and none are hidden here
            if hides or (name.startswith(FRONT_END) and not config.train_front_end):
                parameter.requires_grad_(False)

    def forward(self, batch: SpeechBatch) -> Tensor:
        """Embed a batch: shape ``(B, D)``, with gradients to the encoder unless it still waits."""
        labels, rows = labels_of(batch), self.config.chunk_rows
        learns = torch.is_grad_enabled() and labels.place >= self.config.head_only_batches
        if self._frozen is not None:
            return self._embed_states(self._frozen, batch, learns)

        def embed(waveform: Tensor, lengths: Tensor) -> Tensor:
            with torch.set_grad_enabled(learns):
                states = self.speech.encoder(waveform, lengths).hidden_states
            return self.speech.pool(states)

        parts = zip(batch.waveform.split(rows), batch.waveform_lengths.split(rows), strict=True)
        return embed_in_chunks(embed, [(waveform, lengths) for waveform, lengths in parts])

    def _embed_states(self, frozen: FrozenStates, batch: SpeechBatch, learns: bool) -> Tensor:
        """Shape ``(B, D)``, from what the frozen layers say of whole utterances."""
        with torch.autocast(batch.waveform.device.type, enabled=False):  # as where they are scored
            (whole,) = frozen(batch.waveform, batch.waveform_lengths, batch.ids)
        states = list(whole.split())
        if self.training and self.config.crop_frames is not None:
            states = [_piece(state, self.config.crop_frames) for state in states]

        def embed(values: Tensor, lengths: Tensor) -> Tensor:
            with torch.set_grad_enabled(learns):
                state = last_state(self.speech.encoder, Packed(values, tuple(lengths.tolist())), frozen.layers[0])
            return self.speech.pool((state,))

        rows = self.config.chunk_rows
        chunks = [states[start : start + rows] for start in range(0, len(states), rows)]
        return embed_in_chunks(embed, [(torch.cat(chunk), torch.tensor(list(map(len, chunk)))) for chunk in chunks])

    def parameter_groups(self) -> list[ParameterGroup]:
        """The encoder's own weights at its rate, LoRA and what stands behind the encoder at the run's."""
        own = {id(p) for name, p in self.speech.encoder.named_parameters() if p.requires_grad and "lora_" not in name}
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = decaying_groups((p for p in trained if id(p) in own), self.config.encoder_lr_scale)
        return groups + decaying_groups((p for p in trained if id(p) not in own), 1.0)

    def merged(self) -> SpeechEmbedder:
        """The embedder without adapter: itself, or, with LoRA, a copy with the adapter merged into its weights.

        Raises:
            NumericsError: The merged copy embeds otherwise.
        """
        if not self._adapter:
            return self.speech
        encoder = copy.deepcopy(self._adapter[0]).merge_and_unload()
        result = copy.deepcopy(self.speech)
        result.encoder = encoder
        difference = _difference(self.speech, result)
        if difference > MERGE_TOLERANCE:
            raise NumericsError(
                f"Merging LoRA changed an embedding by {difference:.2e} of its length, more than {MERGE_TOLERANCE:.0e}."
                " Some layer reads its weight without calling the layer, so PEFT's wrapper is bypassed."
            )
        return result


def frozen_layers(speech: SpeechEmbedder, last_layers: int) -> FrozenStates:
    """What stays as it is where the last layers are trained: a copy of the encoder, of which the first layers run.

    Raises:
        ConfigError: The encoder has no single list of layers or too few, or more than its last state is pooled.
    """
    layers = layers_of(speech.encoder)
    if speech.layer_weights is not None or last_layers > len(layers):
        raise ConfigError(
            f"The last {last_layers} of {len(layers)} layers cannot be trained alone: there must be as many, and a "
            "weighted mean hears all states. Take fewer, pool the last state, or train all, or LoRA."
        )
    return FrozenStates(copy.deepcopy(speech.encoder).eval(), [len(layers) - last_layers])


def _piece(state: Tensor, frames: int) -> Tensor:
    """At most so many frames of ``(T, D)``, from a place that torch's generator draws."""
    start = int(torch.randint(max(0, len(state) - frames) + 1, ()))
    return state[start : start + frames]


def labels_of(batch: SpeechBatch) -> Labels:
    """The labels of a batch.

    Raises:
        DataError: It has none.
    """
    if batch.labels is None:
        raise DataError("Tuning needs labels; this batch was collated without them (give the stream classes).")
    return batch.labels


@torch.no_grad()
def _difference(first: SpeechEmbedder, second: SpeechEmbedder) -> float:
    """Largest difference of two embeddings of a second of noise, over the length of the first."""
    device = next(first.parameters()).device
    waveform = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0)).to(device)
    lengths, was_training = torch.tensor([16_000], device=device), first.training
    embeddings = [module.eval()(waveform, lengths) for module in (first, second)]
    first.train(was_training)
    return float((embeddings[0] - embeddings[1]).norm() / embeddings[0].norm().clamp(min=1e-12))
