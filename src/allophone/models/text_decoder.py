"""A pretrained text decoder that reads vectors of speech: any sequence-to-sequence model of the BART family.

mBART-50, NLLB, M2M-100, BART and their kin in ``transformers``. The text encoder is not loaded: a folder written here
says ``encoder_layers: 0`` and is read by ``transformers`` as it is. What decides the language of a text in decoding is
``forced_bos_token_id``, which checkpoints do not set: it is always set here, and each text is checked to begin with it.
The ``decoder_layerdrop`` of M2M-100 leaves out layers by a global random number: it is set to 0. Shape letters: B
utterances, T states of the longest, L tokens of the longest text, V vocabulary, E dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from allophone.batch import valid_positions
from allophone.errors import CheckpointError, ConfigError
from allophone.models.text_encoder import quietly
from allophone.models.token_decoder import SearchConfig, TokenDecoder


class TextDecoder(TokenDecoder):
    """Decoder, output layer and tokenizer of a pretrained model.

    Args:
        model: ``transformers``' model for conditional generation; its text encoder is emptied.
        tokenizer: Its tokenizer; None where no text is read or written.

    Raises:
        ConfigError: The model is not of the BART family, or begins texts with their language (mBART-cc25).
    """

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        settings = model.config
        _require_family(model, settings)
        model.get_encoder().layers = nn.ModuleList()
        settings.encoder_layers, settings.decoder_layerdrop = 0, 0.0
        super().__init__(
            model,
            tokenizer,
            dim=settings.d_model,
            start=settings.decoder_start_token_id,
            end=settings.eos_token_id,
            pad=settings.pad_token_id,
            max_positions=settings.max_position_embeddings,
            rows=model.get_input_embeddings().num_embeddings,
        )
        ids = {"decoder_start_token_id": self.start, "eos_token_id": self.end, "pad_token_id": self.pad}
        model.generation_config = GenerationConfig.from_dict(ids)  # what lies beside a checkpoint decides nothing
        if tokenizer is not None and self.start in tokenizer.convert_tokens_to_ids(list(self.languages.values())):
            raise ConfigError(
                f"{settings.model_type}: texts start with token {self.start}, which is a language "
                f"({tokenizer.convert_ids_to_tokens(self.start)}), as in mBART-cc25. Take mBART-50, whose texts start "
                "with </s> and then the language."
            )

    def layers(self) -> Sequence[Any]:
        """Layers of the decoder."""
        layers: Sequence[Any] = self.model.get_decoder().layers
        return layers

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a folder that ``transformers`` reads."""
        self.model.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))

    def _scores(self, states: Tensor, lengths: Tensor, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=valid_positions(lengths, states.shape[1]).long(),
            decoder_input_ids=inputs,
            use_cache=False,
        ).logits
        return logits

    def _search(self, states: Tensor, lengths: Tensor, language_id: int, config: SearchConfig) -> list[list[int]]:
        found: Tensor = self.model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=valid_positions(lengths, states.shape[1]).long(),
            generation_config=self._settings(language_id, config),
        )
        assert bool((found[:, 1] == language_id).all()), "the forced language was not generated"
        texts: list[list[int]] = found[:, 1:].tolist()
        return [text[: text.index(self.end) + 1] if self.end in text else text for text in texts]

    def _settings(self, language_id: int, config: SearchConfig) -> GenerationConfig:
        """Everything that decides the search."""
        return GenerationConfig(  # type: ignore[no-untyped-call]
            num_beams=config.beams,
            length_penalty=config.length_penalty,
            max_new_tokens=min(config.max_tokens, self.max_positions - 1),
            early_stopping=False,
            do_sample=False,
            forced_bos_token_id=language_id,
            decoder_start_token_id=self.start,
            eos_token_id=self.end,
            pad_token_id=self.pad,
        )


def load_text_decoder(folder_or_hub_id: str | Path) -> TextDecoder:
    """Decoder and tokenizer of a model on the hub or in a folder, in float32 and evaluation mode, on the CPU.

    Raises:
        CheckpointError: There is no such model, it is damaged or incomplete.
        ConfigError: It is not of the BART family.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder_or_hub_id)
        settings = AutoConfig.from_pretrained(folder_or_hub_id)
        settings.encoder_layers = 0  # the text encoder, half of the file, is not read
        with quietly():  # else it lists every tensor of it
            model, report = AutoModelForSeq2SeqLM.from_pretrained(
                folder_or_hub_id, config=settings, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder_or_hub_id}: not a sequence-to-sequence model that transformers can load "
            f"({' '.join(str(error).split())}). Check the name; without a network, download it where there is one and "
            "name the folder."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(f"{folder_or_hub_id}: weights are missing: {', '.join(missing[:8])}. Copy it again.")
    return TextDecoder(model, tokenizer).eval()


def _require_family(model: Any, settings: Any) -> None:
    """The BART family: layers with ``encoder_attn.out_proj`` and ``fc2`` and settings of these names."""
    needed = ("d_model", "encoder_layers", "decoder_layers", "max_position_embeddings")
    decoder = model.get_decoder() if settings.is_encoder_decoder else None
    layers = getattr(decoder, "layers", ())
    fits = all(
        hasattr(layer, "encoder_attn") and isinstance(getattr(layer, "fc2", None), nn.Linear) for layer in layers
    )
    if not all(hasattr(settings, name) for name in needed) or not len(layers) or not fits:
        raise ConfigError(
            f"{settings.model_type} is no decoder of the BART family (layers with encoder_attn and fc2). Take "
            "mBART-50, NLLB, M2M-100 or BART."
        )
    numbers = {name: getattr(settings, name) for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id")}
    missing = [name for name, value in numbers.items() if not isinstance(value, int)]
    if missing:
        raise ConfigError(f"{settings.model_type}: its config.json has no {', '.join(missing)}. Take mBART-50 or NLLB.")
