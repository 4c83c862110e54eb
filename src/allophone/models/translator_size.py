"""How many numbers a speech translator has, also one that is too large to be made here.

Source of the sizes: arXiv:2306.00789, adapters of 75 M parameters in XLS-R 300M and mBART-50.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import transformers
from torch import nn
from transformers import MBartConfig, PreTrainedConfig

from allophone.models.build import EncoderConfig, build_encoder
from allophone.models.hubert import published_config
from allophone.models.shapes import shapes_only
from allophone.models.speech_translator import SpeechTranslator, SpeechTranslatorConfig, layer_norms
from allophone.models.text_decoder import TextDecoder


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """How many numbers each part of a translator has."""

    encoder: int
    """Of the speech encoder."""
    decoder: int
    """Of the decoder with embeddings and output layer; shared ones once."""
    length_adaptor: int
    """Between them."""
    adapters: int
    """In the layers of both."""
    layer_norms: int
    """Of encoder and decoder together, where they are trained with the adapters; they are counted above too."""
    trained: int
    """All that a run changes."""


def parameter_counts(
    encoder: EncoderConfig, decoder: PreTrainedConfig, config: SpeechTranslatorConfig
) -> ParameterCounts:
    """Arithmetic of a translator from its configs; no weight is allocated.

    Args:
        encoder: Of the speech encoder.
        decoder: ``transformers``' config of the model that the decoder is from.
        config: Of the translator.

    Raises:
        ConfigError: The decoder is not of the BART family.
    """
    settings = type(decoder).from_dict({**decoder.to_dict(), "encoder_layers": 0})
    with shapes_only():
        text_decoder = TextDecoder(transformers.AutoModelForSeq2SeqLM.from_config(settings))  # type: ignore[no-untyped-call]
        model = SpeechTranslator(build_encoder(encoder), text_decoder, config)
    return count_parameters(model)


def count_parameters(model: SpeechTranslator) -> ParameterCounts:
    """The same for a model that is there."""
    parts = {"adapters": (model.encoder, model.decoder), "decoder": (model.encoder,), "full": ()}[model.config.training]
    norms = [p for part in parts for p in layer_norms(part) if p.requires_grad]
    return ParameterCounts(
        encoder=_size(model.encoder.parameters()),
        decoder=_size(model.decoder.parameters()),
        length_adaptor=_size(model.length_adaptor.parameters()),
        adapters=_size(model.adapters.parameters()),
        layer_norms=_size(norms),
        trained=_size(p for p in model.parameters() if p.requires_grad),
    )


def _size(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def paper_counts() -> ParameterCounts:
    """Arithmetic of the published model, of which nothing is allocated."""
    sizes = {"d_model": 1024, "decoder_layers": 12, "encoder_layers": 12, "decoder_attention_heads": 16}
    settings = {**sizes, "decoder_ffn_dim": 4096, "vocab_size": 250_054, "decoder_start_token_id": 2}
    decoder = MBartConfig.from_dict(settings)
    return parameter_counts(published_config("xls-r-300m"), decoder, SpeechTranslatorConfig())


def in_millions(counts: ParameterCounts) -> str:
    """A line for people."""
    parts = ("encoder", "decoder", "length_adaptor", "adapters", "layer_norms", "trained")
    return ", ".join(f"{name.replace('_', ' ')} {getattr(counts, name) / 1e6:.2f} M" for name in parts) + "."
