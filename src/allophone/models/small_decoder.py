"""A small text decoder of our own that reads vectors of speech, trained from nothing, with a tokenizer made for it.

Its folder is that of a small mBART without text encoder, which ``transformers`` reads too; here it is read without
them, whose import takes longer than a translation. It searches with our own beam search and cache. Shape letters: B
utterances, T states of the longest, L tokens, V vocabulary, E dim.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from allophone.errors import CheckpointError, ConfigError
from allophone.models.conversion import check_tensors, read_json, read_tensors
from allophone.models.token_decoder import SearchConfig, TokenDecoder
from allophone.nn.beam_search import BeamConfig, beam_search
from allophone.nn.decoder import Decoder, DecoderConfig, DecoderStep

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""Tokens 0 to 3, as mBART has them."""
SPECIAL_NAMES = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
"""The same by their names in ``transformers``."""
TOKENIZER_FILE = "tokenizer.json"
PREFIX = "model.decoder."
FIELDS = {
    "vocabulary": "vocab_size",
    "dim": "d_model",
    "layers": "decoder_layers",
    "heads": "decoder_attention_heads",
    "inner_dim": "decoder_ffn_dim",
    "dropout": "dropout",
    "max_positions": "max_position_embeddings",
    "scale_embedding": "scale_embedding",
    "pad": "pad_token_id",
}
"""Our sizes by the names of ``MBartConfig``."""


class SmallTokenizer:
    """A tokenizer with the part of the interface of ``transformers`` that a decoder asks for.

    Args:
        built: Of ``tokenizers``, with the tokens of :data:`SPECIAL` in their places.
    """

    unk_token_id = SPECIAL.index("<unk>")
    eos_token_id = SPECIAL.index("</s>")

    def __init__(self, built: Tokenizer) -> None:
        self.built = built

    def __len__(self) -> int:
        return int(self.built.get_vocab_size())

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        """Tokens of a text."""
        return {"input_ids": self.built.encode(text, add_special_tokens=add_special_tokens).ids}

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of tokens."""
        return str(self.built.decode(list(tokens), skip_special_tokens=skip_special_tokens))

    def get_vocab(self) -> dict[str, int]:
        """Number of each token."""
        return dict(self.built.get_vocab())

    def convert_tokens_to_ids(self, token: str) -> int:
        """Number of a token, that of the unknown where there is no such token."""
        number = self.built.token_to_id(token)
        return self.unk_token_id if number is None else int(number)


class SmallDecoder(TokenDecoder):
    """Our decoder and its tokenizer.

    Args:
        decoder: The model.
        tokenizer: Of :func:`train_tokenizer`.

    Raises:
        ConfigError: The two have different vocabularies.
    """

    def __init__(self, decoder: Decoder, tokenizer: SmallTokenizer) -> None:
        config = decoder.config
        if len(tokenizer) != config.vocabulary:
            raise ConfigError(f"{len(tokenizer)} tokens in the tokenizer, {config.vocabulary} in the decoder.")
        end = tokenizer.eos_token_id
        super().__init__(
            decoder,
            tokenizer,
            dim=config.dim,
            start=end,
            end=end,
            pad=config.pad,
            max_positions=config.max_positions,
            rows=config.vocabulary,
        )

    def layers(self) -> Sequence[Any]:
        """Layers of the decoder."""
        return list(self.model.layers)

    def _scores(self, states: Tensor, lengths: Tensor, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs, states, lengths)
        return logits

    def _search(self, states: Tensor, lengths: Tensor, language_id: int, config: SearchConfig) -> list[list[int]]:
        search = BeamConfig(
            beams=config.beams,
            length_penalty=config.length_penalty,
            max_tokens=min(config.max_tokens, self.max_positions - 1),
            end=self.end,
            pad=self.pad,
        )
        language = torch.full((len(states),), language_id, device=states.device)
        found = beam_search(
            DecoderStep(self.model, states, lengths, config.beams),
            torch.full((len(states), 1), self.start, device=states.device),
            search,
            lambda new: language if new == 0 else None,
        )
        return [list(texts[0].tokens[1:]) for texts in found]

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a folder that ``transformers`` reads as mBART."""
        import transformers

        sizes = {theirs: getattr(self.model.config, ours) for ours, theirs in FIELDS.items()}
        ids = {"decoder_start_token_id": self.start, "eos_token_id": self.end, "forced_eos_token_id": None}
        config: Any = transformers.MBartConfig.from_dict({**sizes, **ids, "encoder_layers": 0})
        whole: Any = transformers.MBartForConditionalGeneration(config)  # named so, it is imported here alone
        whole.model.decoder.load_state_dict(self.model.state_dict())
        whole.save_pretrained(str(folder))
        tokenizer: Any = transformers.PreTrainedTokenizerFast
        tokenizer(tokenizer_object=self.tokenizer.built, **SPECIAL_NAMES).save_pretrained(str(folder))


def load_small_decoder(folder: str | Path) -> SmallDecoder:
    """Read what :meth:`SmallDecoder.save` wrote, in float32 and evaluation mode, on the CPU.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    folder = Path(folder)
    values = read_json(folder / "config.json")
    try:
        config = DecoderConfig(**{ours: values[theirs] for ours, theirs in FIELDS.items()})
        decoder = Decoder(config)
        tokenizer = SmallTokenizer(_read_tokenizer(folder / TOKENIZER_FILE))
    except (ConfigError, KeyError, TypeError, OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: not a small decoder ({error}). Copy the folder again.") from error
    saved = read_tensors(folder)
    tensors = {name.removeprefix(PREFIX): value for name, value in saved.items() if name.startswith(PREFIX)}
    if "model.shared.weight" in saved:
        tensors["embed_tokens.weight"] = saved["model.shared.weight"]
    check_tensors(folder, tensors, decoder.state_dict())
    decoder.load_state_dict(tensors)
    return SmallDecoder(decoder, tokenizer).eval()


def _read_tokenizer(file: Path) -> Tokenizer:
    text = file.read_text(encoding="utf-8")
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"{file.name}: {error}") from error


def train_tokenizer(texts: Iterable[str], languages: Sequence[str], size: int = 4000) -> SmallTokenizer:
    """A tokenizer of byte pairs with a token for each language (``fra_Latn``).

    Args:
        texts: What it will have to write.
        languages: Languages of texts, ``fra_Latn``.
        size: Most tokens, special ones included.

    Raises:
        ConfigError: No language is given, or ``size`` leaves no place for pieces of words.
    """
    known = sorted(set(languages))
    if not known or size <= len(SPECIAL) + len(known):
        raise ConfigError(f"A tokenizer of {size} tokens for {len(known)} languages; give languages and more tokens.")
    built = Tokenizer(models.BPE(unk_token="<unk>"))  # a Unigram differs from process to process
    built.normalizer = normalizers.NFC()
    built.pre_tokenizer, built.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = [*SPECIAL, *known]
    normal = [unicodedata.normalize("NFC", text) for text in texts]
    counts = Counter("".join(normal))
    letters = sorted(counts, key=lambda letter: (-counts[letter], letter))[: size - len(special) - 1]
    rare = dict.fromkeys(map(ord, counts.keys() - set(letters)))  # cut here, as the trainer cuts ties by chance
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    built.train_from_iterator([text.translate(rare) for text in normal], trainer)
    return SmallTokenizer(built)
