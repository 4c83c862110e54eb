"""A pretrained text decoder that reads vectors of speech: any sequence-to-sequence model of the BART family.

mBART-50, NLLB, M2M-100, BART and their kin in ``transformers``. The text encoder is not loaded: a folder written here
says ``encoder_layers: 0`` and is read by ``transformers`` as it is. Shape letters: B utterances, T states of the
longest, L tokens of the longest text, V vocabulary, E dim.

The traps of these models, and what is done about them. A language that the tokenizer does not know becomes its unknown
token without a word: languages are looked up in the vocabulary and refused. mBART-50 and NLLB begin a text with its
language behind the start token, and what decides it in decoding is ``forced_bos_token_id``, which checkpoints do not
set: it is always set here, and each text is checked to begin with it. Tokenizers write source and target texts
differently, some end a source in its language: texts are tokenized without special tokens, which are added here. The
``decoder_layerdrop`` of M2M-100 leaves out layers by a global random number: it is set to 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from allophone.batch import valid_positions
from allophone.errors import CheckpointError, ConfigError, DataError, suggest
from allophone.text.languages import parse_language

IGNORED = -100
"""Stands for no token in targets."""
LANGUAGE_TOKEN = re.compile(r"__([a-z]{2,3})__|([a-z]{2,3}_(?:[A-Z]{2}|[A-Z][a-z]{3}))")
"""``__fr__`` (M2M-100), ``fr_XX`` (mBART-50) or ``fra_Latn`` (NLLB)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """How the best text is looked for."""

    beams: int = 5
    """Texts that are kept from token to token; 1 takes the most probable token each time."""
    length_penalty: float = 1.0
    """A text's log-probability is divided by its tokens to this power."""
    max_tokens: int = 200
    """Longest text, its language and end included."""

    def __post_init__(self) -> None:
        if self.beams < 1 or self.max_tokens < 2:
            raise ConfigError(f"Search needs beams >= 1 and max_tokens >= 2; got {self.beams} and {self.max_tokens}.")


@dataclass(frozen=True, slots=True)
class Targets:
    """Texts as a decoder is trained on them."""

    inputs: Tensor
    """What the decoder reads: start, language, tokens. Shape ``(B, L)``, int64, padded."""
    labels: Tensor
    """What it is to say: language, tokens, end. Shape ``(B, L)``, int64, :data:`IGNORED` beyond each end."""


@dataclass(frozen=True, slots=True)
class AdapterSite:
    """A projection that an adapter can stand behind."""

    part: str
    """``attention`` or ``feed_forward``."""
    projection: nn.Module
    """The last projection of that part, before the residual is added."""
    dim: int
    """Its output width."""


class TextDecoder(nn.Module):
    """Decoder, output layer and tokenizer of a pretrained model.

    Args:
        model: ``transformers``' model for conditional generation; its text encoder is emptied.
        tokenizer: Its tokenizer; None where no text is read or written.

    Raises:
        ConfigError: The model is not of the BART family, or begins texts with their language (mBART-cc25).
    """

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        super().__init__()
        settings = model.config
        _require_family(model, settings)
        model.get_encoder().layers = nn.ModuleList()
        settings.encoder_layers, settings.decoder_layerdrop = 0, 0.0
        self.model = model
        self.tokenizer = tokenizer
        self.dim: int = settings.d_model
        self.start: int = settings.decoder_start_token_id
        self.end: int = settings.eos_token_id
        self.pad: int = settings.pad_token_id
        ids = {"decoder_start_token_id": self.start, "eos_token_id": self.end, "pad_token_id": self.pad}
        self.model.generation_config = GenerationConfig.from_dict(
            ids
        )  # what a checkpoint says of searching has no effect
        self.max_positions: int = settings.max_position_embeddings
        self.languages: dict[str, str] = {} if tokenizer is None else language_tokens(tokenizer)
        if tokenizer is not None and self.start in tokenizer.convert_tokens_to_ids(list(self.languages.values())):
            raise ConfigError(
                f"{settings.model_type}: texts start with token {self.start}, which is a language "
                f"({tokenizer.convert_ids_to_tokens(self.start)}), as in mBART-cc25. Take mBART-50, whose texts start "
                "with </s> and then the language."
            )

    @property
    def sites(self) -> list[list[AdapterSite]]:
        """For each layer of the decoder, where its adapters stand: attention to the speech and feed-forward."""
        layers: Any = self.model.get_decoder().layers
        return [
            [
                AdapterSite("attention", layer.encoder_attn.out_proj, self.dim),
                AdapterSite("feed_forward", layer.fc2, self.dim),
            ]
            for layer in layers
        ]

    def language_id(self, language: str) -> int:
        """Token of a language.

        Args:
            language: Any tag that :func:`~allophone.text.languages.parse_language` reads.

        Raises:
            DataError: The tag is unknown, or the tokenizer has no token for the language.
        """
        tag = parse_language(language).tag
        if tag not in self.languages:
            raise DataError(
                f"This decoder has no token for {tag} ({parse_language(language).name}); "
                f"{suggest(tag, self.languages) if self.languages else 'its tokenizer has no language tokens at all.'}"
            )
        token = self.languages[tag]
        number = self.tokenizer.convert_tokens_to_ids(token)
        rows = self.model.get_input_embeddings().num_embeddings
        if number == self.tokenizer.unk_token_id or not 0 <= number < rows:
            raise DataError(
                f"{token} is token {number} of the tokenizer, the decoder has 0 to {rows - 1}. They do not belong "
                "together."
            )
        return int(number)

    def targets(self, texts: Sequence[str], languages: Sequence[str], max_tokens: int | None = None) -> Targets:
        """Texts to token ids, on the device of the weights.

        Args:
            texts: What is to be said.
            languages: The language of each.
            max_tokens: Longer texts are cut, their language and end included; None = as many as the decoder can.

        Raises:
            DataError: A language has no token.
        """
        limit = min(max_tokens or self.max_positions, self.max_positions)
        said = []
        for text, language in zip(texts, languages, strict=True):
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            said.append([self.language_id(language), *ids[: limit - 2], self.end])
        width = max(map(len, said))
        device = next(self.model.parameters()).device
        labels = torch.tensor([row + [IGNORED] * (width - len(row)) for row in said], device=device)
        inputs = torch.tensor([[self.start, *row[:-1]] + [self.pad] * (width - len(row)) for row in said])
        return Targets(inputs.to(device), labels)

    def forward(self, states: Tensor, lengths: Tensor, inputs: Tensor) -> Tensor:
        """Scores of the next token after each.

        Args:
            states: What is said in some language. Shape ``(B, T, E)``, float.
            lengths: Real states. Shape ``(B,)``, int64.
            inputs: :attr:`Targets.inputs`. Shape ``(B, L)``, int64.

        Returns:
            Logits. Shape ``(B, L, V)``.
        """
        logits: Tensor = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=valid_positions(lengths, states.shape[1]).long(),
            decoder_input_ids=inputs,
            use_cache=False,
        ).logits
        return logits

    def generate(self, states: Tensor, lengths: Tensor, language_id: int, config: SearchConfig) -> list[list[int]]:
        """The best text for each utterance, in one language.

        Args:
            states: Shape ``(B, T, E)``, float.
            lengths: Real states. Shape ``(B,)``, int64.
            language_id: Of :meth:`language_id`.
            config: Beams and length.

        Returns:
            Tokens of each text, the language first; the end is the last where it was found.
        """
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

    def text(self, tokens: Sequence[int]) -> str:
        """Token ids as text, special tokens left out."""
        written: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return written.strip()


def language_tokens(tokenizer: Any) -> dict[str, str]:
    """Languages that a tokenizer has a token for: our tag (``fra_Latn``) to the token.

    Where two tokens mean the same language for us, the one that is spelled like the tag is taken, then the first.
    """
    found: dict[str, str] = {}
    for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        match = LANGUAGE_TOKEN.fullmatch(token)
        if match is None:
            continue
        try:
            tag = parse_language(match[1] or match[2]).tag
        except DataError:  # a word piece that looks like a language, or a language of no standard
            continue
        if tag not in found or token == tag:
            found[tag] = token
    return found


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
