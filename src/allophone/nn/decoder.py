"""A Transformer decoder that reads vectors of speech and says the next token, with a cache of what it has computed.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3; pre-norm, with a norm behind the embeddings and one behind the
last layer, as Liu et al. 2020, arXiv:2001.08210 (mBART). Parameters are named as in ``transformers``'
``MBartDecoder``, whose weights give the same scores here. Output and input embeddings are one matrix.
Shape letters: B rows, T states of the longest, L tokens, P tokens read before, D dim, H heads, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allophone.batch import valid_positions
from allophone.errors import ConfigError, ShapeError

POSITION_OFFSET = 2
"""Rows of the position table that mBART leaves unused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """Sizes."""

    vocabulary: int
    """V, tokens."""
    dim: int = 256
    """D, width of the states too."""
    layers: int = 4
    """Layers."""
    heads: int = 4
    """H, a divisor of ``dim``."""
    inner_dim: int = 1024
    """Width of the feed-forward part."""
    dropout: float = 0.1
    """Behind the embeddings and every part of a layer."""
    max_positions: int = 256
    """Longest text, start included."""
    scale_embedding: bool = False
    """Multiply embeddings by the square root of ``dim``."""
    pad: int = 1
    """Token that stands for none."""

    def __post_init__(self) -> None:
        sizes = (self.vocabulary, self.dim, self.layers, self.heads, self.inner_dim, self.max_positions)
        if min(sizes) < 1 or self.dim % self.heads:
            raise ConfigError(f"A decoder needs sizes of at least 1, and heads that divide dim; got {self}.")


@dataclass(slots=True)
class DecoderCache:
    """Keys and values of what was read: of the states once, of tokens one by one."""

    states: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """For each layer, keys and values of the states. Shape ``(B, H, T, D / H)`` each."""
    tokens: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """For each layer, keys and values of the tokens so far. Shape ``(B, H, P, D / H)`` each."""

    @property
    def length(self) -> int:
        """P, tokens read so far."""
        return self.tokens[0][0].shape[2] if self.tokens else 0

    def reorder(self, rows: Tensor) -> None:
        """Go on with other rows of what was read, as a beam search does; rows share their states, which stay.

        Args:
            rows: For each row the one whose tokens it continues, of the same utterance. Shape ``(B,)``, int64.
        """
        self.tokens = [(keys[rows], values[rows]) for keys, values in self.tokens]


class _Attention(nn.Module):
    """Projections and scaled dot products."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def keys_and_values(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, T, D)`` to twice ``(B, H, T, D / H)``."""
        return self._by_head(self.k_proj(values)), self._by_head(self.v_proj(values))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
        """``(B, L, D)`` attends to keys and values ``(B, H, T, D / H)`` where ``seen``, ``(B or 1, 1, L or 1, T)``."""
        found = F.scaled_dot_product_attention(self._by_head(self.q_proj(queries)), keys, values, attn_mask=seen)
        attended: Tensor = self.out_proj(found.transpose(1, 2).flatten(2))
        return attended

    def _by_head(self, values: Tensor) -> Tensor:
        return values.view(*values.shape[:2], self.heads, -1).transpose(1, 2)


class _Layer(nn.Module):
    """Attention to earlier tokens, attention to the states, feed-forward; each behind a norm, each added."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config.dim, config.heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.dim)
        self.encoder_attn = _Attention(config.dim, config.heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.dim)
        self.fc1 = nn.Linear(config.dim, config.inner_dim)
        self.fc2 = nn.Linear(config.inner_dim, config.dim)
        self.final_layer_norm = nn.LayerNorm(config.dim)
        self.dropout = config.dropout

    def forward(
        self,
        values: Tensor,
        before: tuple[Tensor, Tensor] | None,
        states: tuple[Tensor, Tensor],
        seen: Tensor | None,
        valid: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """``(B, L, D)`` to ``(B, L, D)`` and the keys and values of all tokens so far."""
        normed = self.self_attn_layer_norm(values)
        keys, contents = self.self_attn.keys_and_values(normed)
        if before is not None:
            keys, contents = torch.cat([before[0], keys], dim=2), torch.cat([before[1], contents], dim=2)
        values = values + self._drop(self.self_attn(normed, keys, contents, seen))
        attended = self.encoder_attn(self.encoder_attn_layer_norm(values), *states, valid)
        values = values + self._drop(attended)
        inner = F.gelu(self.fc1(self.final_layer_norm(values)))
        return values + self._drop(self.fc2(inner)), (keys, contents)

    def _drop(self, values: Tensor) -> Tensor:
        return F.dropout(values, self.dropout, self.training)


class Decoder(nn.Module):
    """Tokens and states to scores of the next token.

    Args:
        config: Sizes.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.dim, padding_idx=config.pad)
        self.embed_positions = nn.Embedding(config.max_positions + POSITION_OFFSET, config.dim)
        self.layernorm_embedding = nn.LayerNorm(config.dim)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.dim)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)
        with torch.no_grad():
            self.embed_tokens.weight[config.pad].zero_()

    def forward(self, tokens: Tensor, states: Tensor, lengths: Tensor, cache: DecoderCache | None = None) -> Tensor:
        """Scores of the token after each one that is read.

        Args:
            tokens: What is read now; without a cache the whole text. Shape ``(B, L)``, int64.
            states: What is said in some language; with a filled cache only its shape is looked at. Shape ``(B, T, D)``.
            lengths: Real states. Shape ``(B,)``, int64.
            cache: What was read before; what is read now is added to it.

        Returns:
            Logits. Shape ``(B, L, V)``.

        Raises:
            ShapeError: Rows or dims disagree, or the text is longer than the table of positions.
        """
        done = 0 if cache is None else cache.length
        self._check(tokens, states, lengths, done)
        scale = math.sqrt(self.config.dim) if self.config.scale_embedding else 1.0
        positions = torch.arange(done, done + tokens.shape[1], device=tokens.device) + POSITION_OFFSET
        embedded = self.embed_tokens(tokens) * scale + self.embed_positions(positions)
        values = F.dropout(self.layernorm_embedding(embedded), self.config.dropout, self.training)
        valid = valid_positions(lengths, states.shape[1])[:, None, None, :]
        seen = _earlier(tokens.shape[1], done, tokens.device)
        read = []
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            if cache is not None and len(cache.states) > number:
                heard = cache.states[number]
            else:
                heard = layer.encoder_attn.keys_and_values(states)
                if cache is not None:
                    cache.states.append(heard)
            before = cache.tokens[number] if cache is not None and cache.tokens else None
            values, now = layer(values, before, heard, seen, valid)
            read.append(now)
        if cache is not None:
            cache.tokens = read
        return F.linear(self.layer_norm(values), self.embed_tokens.weight)

    def _check(self, tokens: Tensor, states: Tensor, lengths: Tensor, done: int) -> None:
        rows = len(tokens)
        if states.shape[::2] != (rows, self.config.dim) or lengths.shape != (rows,):
            raise ShapeError(
                f"Decoder: tokens {tuple(tokens.shape)}, states {tuple(states.shape)}, lengths "
                f"{tuple(lengths.shape)}; expected as many rows in each, and states of {self.config.dim} dims."
            )
        if done + tokens.shape[1] > self.config.max_positions:
            raise ShapeError(
                f"Decoder: a text of {done + tokens.shape[1]} tokens; this one has positions for "
                f"{self.config.max_positions}. Cut the text, or build it with more max_positions."
            )


def _earlier(now: int, before: int, device: torch.device) -> Tensor | None:
    """Which tokens each of ``now`` new ones sees: itself and all earlier. ``(1, 1, now, before + now)``; None = all."""
    if now == 1:
        return None
    places = torch.arange(before + now, device=device)
    return (places[None, :] <= places[before:, None])[None, None]


class DecoderStep:
    """What :func:`~allophone.nn.beam_search.beam_search` asks for: a decoder that goes on from its cache.

    Args:
        decoder: In evaluation mode.
        states: Of B utterances. Shape ``(B, T, D)``.
        lengths: Real states. Shape ``(B,)``, int64.
        beams: Rows of each utterance.
        cached: False reads every text from its beginning each time, for comparison.
    """

    def __init__(self, decoder: Decoder, states: Tensor, lengths: Tensor, beams: int, *, cached: bool = True) -> None:
        self._decoder = decoder
        self._states = states.repeat_interleave(beams, dim=0)
        self._lengths = lengths.repeat_interleave(beams)
        self._cache = DecoderCache() if cached else None

    def __call__(self, tokens: Tensor, rows: Tensor | None) -> Tensor:
        """Logits behind the last token. Tokens ``(R, L)``, rows ``(R,)`` or None; gives ``(R, V)``."""
        if self._cache is not None:
            if rows is not None:
                self._cache.reorder(rows)
            tokens = tokens[:, self._cache.length :]
        logits: Tensor = self._decoder(tokens, self._states, self._lengths, self._cache)
        return logits[:, -1]
