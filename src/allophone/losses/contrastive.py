"""Contrast of two modalities over the batches of all processes: InfoNCE and the sigmoid loss, with many positives.

Source: InfoNCE, both ways: Radford et al. 2021, arXiv:2103.00020, figure 3. Several positives: Khosla et al. 2020,
arXiv:2004.11362, equation 2 (the mean over positives outside the logarithm). Sigmoid: Zhai et al. 2023,
arXiv:2303.15343, algorithm 1. Large batches: Gao et al. 2021, arXiv:2101.06983.
Shape letters: B rows of this process, N rows of all, D dim, F facts of one row.

Every function returns sums over the B rows of this process; added over processes and divided once by N they are the
published means. What makes a text right for a recording is a number (see :class:`~allophone.batch.Captions`), so equal
captions are positives and never negatives. Nothing here draws anything at random or owns a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from allophone.distributed import gather, gather_rows
from allophone.errors import ShapeError


@dataclass(frozen=True, slots=True)
class Pairs:
    """Rows of this process against the rows of all, every vector of length 1."""

    audio: Tensor
    """Shape ``(B, D)``, float32."""
    text: Tensor
    """Shape ``(B, D)``, float32; row i was drawn for row i of ``audio``."""
    all_audio: Tensor
    """Shape ``(N, D)``, by process."""
    all_text: Tensor
    """Shape ``(N, D)``, by process."""
    audio_matches: Tensor
    """Which texts are true of each recording of this process. Shape ``(B, N)``, bool, at least one a row."""
    text_matches: Tensor
    """Which recordings each text of this process is true of. Shape ``(B, N)``, bool, at least one a row."""


@dataclass(frozen=True, slots=True)
class ContrastiveSums:
    """What a loss gives back; the caller divides by the rows of all processes."""

    loss_sum: Tensor
    """Shape ``()``, float32."""
    audio_hits: Tensor
    """Recordings of this process whose most similar text is true of them. Shape ``()``, int64."""
    text_hits: Tensor
    """Texts of this process that are true of their most similar recording. Shape ``()``, int64."""


def matches(known: Tensor, stated: Tensor) -> Tensor:
    """Which texts are true of which recordings.

    Args:
        known: Facts of each recording. Shape ``(A, F)``, int64, -1 = none.
        stated: Fact of each text. Shape ``(C,)``, int64, not negative.

    Returns:
        Shape ``(A, C)``, bool.

    Example:
        >>> matches(torch.tensor([[3, 7], [7, -1]]), torch.tensor([3, 7])).tolist()
        [[True, True], [False, True]]
    """
    found = torch.zeros(len(known), len(stated), dtype=torch.bool, device=known.device)
    for column in known.unbind(1):  # a loop over few facts, so that (A, C, F) is never there
        found |= column[:, None] == stated[None, :]
    return found


def gather_pairs(audio: Tensor, text: Tensor, stated: Tensor, known: Tensor) -> Pairs:
    """Scale vectors to length 1 and put the rows of all processes beside them; every process must call it.

    Args:
        audio: Vectors of B recordings. Shape ``(B, D)``, any float dtype.
        text: Vectors of their texts. Shape ``(B, D)``.
        stated: Fact that each text states. Shape ``(B,)``, int64, not negative.
        known: Facts of each recording, that of its text among them. Shape ``(B, F)``, int64; -1 = none.

    Raises:
        ShapeError: The four do not have these shapes.
    """
    if audio.shape != text.shape or audio.ndim != 2 or stated.shape != audio.shape[:1] or len(known) != len(audio):
        raise ShapeError(
            f"gather_pairs: audio {tuple(audio.shape)}, text {tuple(text.shape)}, stated {tuple(stated.shape)}, known "
            f"{tuple(known.shape)}; expected (batch, dim) twice, (batch,) and (batch, facts)."
        )
    with torch.autocast(audio.device.type, enabled=False):
        audio, text = F.normalize(audio.float(), dim=-1), F.normalize(text.float(), dim=-1)
        all_audio, all_text = gather_rows(audio), gather_rows(text)
    missing = max(gather(known.shape[1])) - known.shape[1]
    all_stated, all_known = gather_rows(stated), gather_rows(F.pad(known, (0, missing), value=-1))
    return Pairs(audio, text, all_audio, all_text, matches(known, all_stated), matches(all_known, stated).T)


def infonce_loss(pairs: Pairs, temperature: Tensor | float) -> ContrastiveSums:
    """Cross-entropy of each recording over all texts and of each text over all recordings, half and half.

    A row with several positives has the target 1 / positives on each of them, so the least loss of a row is the
    logarithm of their number.

    Args:
        pairs: Of :func:`gather_pairs`.
        temperature: Divides the cosines; shape ``()`` or a number.

    Relates to:
        CLIP's loss times B where each fact is stated once; half the sum of SupCon's two losses across modalities.
    """
    with torch.autocast(pairs.audio.device.type, enabled=False):
        audio_logits = pairs.audio @ pairs.all_text.T / temperature
        text_logits = pairs.text @ pairs.all_audio.T / temperature
        losses = _cross_entropy(audio_logits, pairs.audio_matches), _cross_entropy(text_logits, pairs.text_matches)
    return ContrastiveSums(
        0.5 * (losses[0] + losses[1]),
        _hits(audio_logits, pairs.audio_matches),
        _hits(text_logits, pairs.text_matches),
    )


def sigmoid_loss(pairs: Pairs, temperature: Tensor | float, bias: Tensor | float) -> ContrastiveSums:
    """Logistic loss of every pair by itself: is this text true of this recording?

    Args:
        pairs: Of :func:`gather_pairs`; the pairs of this process' recordings with all texts are summed here.
        temperature: Divides the cosines (the paper starts at 0.1); shape ``()`` or a number.
        bias: Is added to them (the paper starts at -10); shape ``()`` or a number.
    """
    with torch.autocast(pairs.audio.device.type, enabled=False):
        logits = pairs.audio @ pairs.all_text.T / temperature + bias
        loss_sum = -F.logsigmoid(torch.where(pairs.audio_matches, logits, -logits)).sum()
        with torch.no_grad():
            text_similarity = pairs.text @ pairs.all_audio.T
    return ContrastiveSums(loss_sum, _hits(logits, pairs.audio_matches), _hits(text_similarity, pairs.text_matches))


def _cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    """Sum over rows of the mean over positives. Both ``(B, N)``; no row without a positive."""
    log_likelihood = F.log_softmax(logits, dim=1).masked_fill(~positives, 0.0).sum(dim=1)
    return -(log_likelihood / positives.sum(dim=1)).sum()


def _hits(logits: Tensor, positives: Tensor) -> Tensor:
    return positives.gather(1, logits.detach().argmax(dim=1, keepdim=True)).sum()


def embed_in_chunks(embed: Callable[..., Tensor], chunks: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """Vectors of a large batch in the memory of one chunk, with the gradients of the whole batch.

    Only the vectors are kept. The backward pass takes the chunks one after another: each is computed again, under the
    random numbers that it had (dropout draws the same) and the same autocast, and its gradients are added up. This is
    GradCache, with the one more forward pass that it costs, by means of torch's checkpointing; so the loss sees plain
    vectors and needs to know nothing of it.

    Args:
        embed: From the tensors of one chunk to ``(rows, D)``; must change no state.
        chunks: Tensors of each chunk, on the device whose random numbers ``embed`` draws. At least one; a single one
            is computed directly.

    Returns:
        Shape ``(rows of all chunks, D)``.

    Raises:
        ShapeError: There is no chunk.

    Source:
        Gao et al. 2021, arXiv:2101.06983, section 3.2. Deviation: the vectors' gradients are not computed apart.
    """
    if not chunks:
        raise ShapeError("embed_in_chunks: no chunk was given; a batch has at least one row.")
    if len(chunks) == 1 or not torch.is_grad_enabled():
        return torch.cat([embed(*chunk) for chunk in chunks])
    return torch.cat([checkpoint(embed, *chunk, use_reentrant=False) for chunk in chunks])
