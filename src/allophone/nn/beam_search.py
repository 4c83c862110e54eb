"""Texts that a model finds most probable, looked for in a beam of a few.

Source: the search of ``transformers`` (``generate`` with ``early_stopping=False``), to the token: twice as many
continuations as beams are looked at; those among the best ``beams`` that end a text are kept, with their score divided
by ``tokens ** length_penalty``; the others go on. An utterance is done when its best open text, divided likewise, is no
better than the worst of ``beams`` finished ones. Length normalization: Wu et al. 2016, arXiv:1609.08144, section 7, in
its simplest form. Shape letters: B utterances, W beams, R rows = B W, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from allophone.errors import ConfigError, ShapeError

NEVER = -1e9
"""Score of what must not be chosen, finite so that sums of two stay comparable."""


class Step(Protocol):
    """Scores of the next token; whoever keeps a cache reorders it by ``rows``."""

    def __call__(self, tokens: Tensor, rows: Tensor | None) -> Tensor:
        """Read all texts so far.

        Args:
            tokens: Shape ``(R, L)``, int64.
            rows: For each row, the row of the call before that it continues. Shape ``(R,)``, int64; None at first.

        Returns:
            Logits of the next token. Shape ``(R, V)``, float.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class BeamConfig:
    """How texts are looked for."""

    beams: int = 5
    """W, texts that are kept."""
    length_penalty: float = 1.0
    """A text's log-probability is divided by its new tokens to this power; 0 prefers short texts."""
    max_tokens: int = 200
    """Most tokens behind the beginning, the end included."""
    end: int = 2
    """Token that ends a text."""
    pad: int = 1
    """Stands behind the end of shorter texts."""

    def __post_init__(self) -> None:
        if self.beams < 1 or self.max_tokens < 1:
            raise ConfigError(f"Beam search needs beams and max_tokens of at least 1; got {self}.")


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A text that was found."""

    tokens: tuple[int, ...]
    """Its beginning, what was found, and its end where it was found."""
    score: float
    """Log-probability over ``tokens ** length_penalty``."""


@dataclass(slots=True)
class _Beams:
    """Texts of B utterances, W each."""

    tokens: Tensor
    """Shape ``(B, W, L)``."""
    scores: Tensor
    """Shape ``(B, W)``, float32."""


def beam_search(
    step: Step,
    beginning: Tensor,
    config: BeamConfig,
    forced: Callable[[int], Tensor | None] | None = None,
) -> list[list[Hypothesis]]:
    """The best texts of a batch.

    Args:
        step: Gives logits; rows of one utterance stand together, W of them.
        beginning: How each text begins. Shape ``(B, L)``, int64, no padding.
        config: Beams and lengths.
        forced: From the number of a new token (0 = the first) to the token that each utterance must have there, shape
            ``(B,)``, or None where it is free; a forced token costs nothing.

    Returns:
        For each utterance up to W hypotheses, best first. A text that has no end within ``max_tokens`` counts as ended
        there.

    Raises:
        ShapeError: ``beginning`` is not a matrix with at least one token.
    """
    if beginning.dim() != 2 or 0 in beginning.shape:
        raise ShapeError(f"beam_search: beginning {tuple(beginning.shape)}; expected (utterances, tokens), not empty.")
    batch, prompt = beginning.shape
    width, device = config.beams, beginning.device
    scores = torch.full((batch, width), NEVER, device=device)
    scores[:, 0] = 0.0  # at first all beams are one
    running = _Beams(beginning[:, None].expand(batch, width, prompt), scores)
    finished = _Beams(running.tokens, torch.full((batch, width), NEVER, device=device))
    open_ = torch.ones(batch, 1, dtype=torch.bool, device=device)
    rows: Tensor | None = None
    for new in range(config.max_tokens):
        logits = step(running.tokens.flatten(0, 1), rows)
        log_probabilities = logits.float().log_softmax(dim=-1)
        if forced is not None and (tokens := forced(new)) is not None:
            log_probabilities = _only(tokens.repeat_interleave(width), log_probabilities)
        top, source, candidates = _continue(running, log_probabilities.view(batch, width, -1))
        last = new + 1 == config.max_tokens
        ends = (candidates[..., -1] == config.end) | last
        now = ends & (torch.arange(ends.shape[1], device=device) < width)  # what ends further down is dropped
        divisor = float(new + 1) ** config.length_penalty
        finished = _finish(finished, _Beams(candidates, top), now & open_, divisor, config.pad)
        if bool(ends.all()):
            break
        going = torch.topk(top + ends.float() * NEVER, width, dim=1)
        running = _Beams(_take(candidates, going.indices), going.values)
        offsets = torch.arange(batch, device=device)[:, None] * width
        rows = (torch.gather(source, 1, going.indices) + offsets).flatten()
        open_ = open_ & (running.scores[:, :1] / divisor > finished.scores.min(dim=1, keepdim=True).values)
        if not bool(open_.any()):
            break
    return _hypotheses(finished, prompt, config.end)


def _only(tokens: Tensor, log_probabilities: Tensor) -> Tensor:
    """Certainty for one token in each row. Tokens ``(R,)``, the others ``(R, V)``."""
    certain = torch.full_like(log_probabilities, -torch.inf)
    return certain.scatter(1, tokens[:, None], 0.0)


def _continue(running: _Beams, log_probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ``2 W`` best continuations: scores and beams they come from ``(B, 2W)``, tokens ``(B, 2W, L + 1)``."""
    vocabulary, width = log_probabilities.shape[2], log_probabilities.shape[1]
    total = (running.scores[:, :, None] + log_probabilities).flatten(1)
    top = torch.topk(total, min(2 * width, total.shape[1]), dim=1)
    source, token = top.indices // vocabulary, top.indices % vocabulary
    return top.values, source, torch.cat([_take(running.tokens, source), token[..., None]], dim=2)


def _finish(finished: _Beams, candidates: _Beams, now: Tensor, divisor: float, pad: int) -> _Beams:
    """The best W of the texts finished before and of the continuations that end ``now``, ``(B, 2W)``."""
    width, added = finished.scores.shape[1], candidates.tokens.shape[2] - finished.tokens.shape[2]
    tokens = torch.cat([functional.pad(finished.tokens, (0, added), value=pad), candidates.tokens], dim=1)
    scores = (candidates.scores / divisor).masked_fill(~now, NEVER)
    best = torch.topk(torch.cat([finished.scores, scores], dim=1), width, dim=1)
    return _Beams(_take(tokens, best.indices), best.values)


def _take(tokens: Tensor, indices: Tensor) -> Tensor:
    """Rows ``(B, K)`` of ``(B, W, L)``: ``(B, K, L)``."""
    return torch.gather(tokens, 1, indices[..., None].expand(-1, -1, tokens.shape[2]))


def _hypotheses(finished: _Beams, prompt: int, end: int) -> list[list[Hypothesis]]:
    """What was found, without what stands behind an end."""
    found = []
    for texts, scores in zip(finished.tokens.tolist(), finished.scores.tolist(), strict=True):
        kept = [(text, score) for text, score in zip(texts, scores, strict=True) if score > NEVER / 2]
        found.append([Hypothesis(tuple(_until(text, prompt, end)), score) for text, score in kept])
    return found


def _until(text: list[int], prompt: int, end: int) -> list[int]:
    new = text[prompt:]
    return text[: prompt + new.index(end) + 1] if end in new else text
