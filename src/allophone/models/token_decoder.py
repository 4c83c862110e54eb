"""What every text decoder knows of tokens: languages, texts to ids and back, and where adapters stand.

Shape letters: B utterances, T states of the longest, L tokens of the longest text, V vocabulary, E dim.

The traps of multilingual decoders, and what is done about them. A language that the tokenizer does not know becomes its
unknown token without a word: languages are looked up in the vocabulary and refused. Tokenizers write source and target
texts differently, some end a source in its language: texts are tokenized without special tokens, which are added here,
as mBART-50 and NLLB were trained: start, language, tokens, end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from allophone.errors import ConfigError, DataError, suggest
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


class TokenDecoder(nn.Module):
    """A decoder with its tokenizer; what it is made of, its children say.

    Args:
        model: Says the next token; has ``layers`` of mBART's form in :meth:`layers`.
        tokenizer: Of ``transformers``; None where no text is read or written.
        dim: E, of the states it reads.
        start: Token that every text starts with.
        end: Token that every text ends with.
        pad: Token that stands for none.
        max_positions: Longest text, start included.
        rows: V, tokens of the model.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, dim: int, start: int, end: int, pad: int, max_positions: int, rows: int
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.dim, self.start, self.end, self.pad = dim, start, end, pad
        self.max_positions, self.rows = max_positions, rows
        self.languages: dict[str, str] = {} if tokenizer is None else language_tokens(tokenizer)

    def layers(self) -> Sequence[Any]:
        """Layers with ``encoder_attn.out_proj`` and ``fc2``."""
        raise AssertionError("a decoder says which layers it has")

    def forward(self, states: Tensor, lengths: Tensor, inputs: Tensor) -> Tensor:
        """Scores of the next token after each.

        Args:
            states: What is said in some language. Shape ``(B, T, E)``, float.
            lengths: Real states. Shape ``(B,)``, int64.
            inputs: :attr:`Targets.inputs`. Shape ``(B, L)``, int64.

        Returns:
            Logits. Shape ``(B, L, V)``.
        """
        return self._scores(states, lengths, inputs)

    def _scores(self, states: Tensor, lengths: Tensor, inputs: Tensor) -> Tensor:
        raise AssertionError("a decoder says how it reads")

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
        return self._search(states, lengths, language_id, config)

    def _search(self, states: Tensor, lengths: Tensor, language_id: int, config: SearchConfig) -> list[list[int]]:
        raise AssertionError("a decoder says how it searches")

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a folder that ``transformers`` reads."""
        raise AssertionError("a decoder says how it is saved")

    @property
    def sites(self) -> list[list[AdapterSite]]:
        """For each layer of the decoder, where its adapters stand: attention to the speech and feed-forward."""
        return [
            [
                AdapterSite("attention", layer.encoder_attn.out_proj, self.dim),
                AdapterSite("feed_forward", layer.fc2, self.dim),
            ]
            for layer in self.layers()
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
        if number == self.tokenizer.unk_token_id or not 0 <= number < self.rows:
            raise DataError(
                f"{token} is token {number} of the tokenizer, the decoder has 0 to {self.rows - 1}. They do not belong "
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
        return shifted(said, self.start, self.pad, next(self.model.parameters()).device)

    def text(self, tokens: Sequence[int]) -> str:
        """Token ids as text, special tokens left out."""
        written: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return written.strip()


def shifted(said: Sequence[Sequence[int]], start: int, pad: int, device: torch.device) -> Targets:
    """What a decoder reads and is to say next.

    Args:
        said: Tokens of each text, its end included.
        start: Read before the first token.
        pad: Read behind a text.
        device: Of both tensors.
    """
    width = max(map(len, said))
    inputs = torch.tensor([[start, *row[:-1], *[pad] * (width - len(row))] for row in said], device=device)
    labels = torch.tensor([[*row, *[IGNORED] * (width - len(row))] for row in said], device=device)
    return Targets(inputs, labels)


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
