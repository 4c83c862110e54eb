"""Losses that bring vectors of speech to the vectors a frozen teacher has for its words.

Source: Khurana et al. 2022, arXiv:2205.08180, section 3 (cosine loss times a factor) and equation 3 (balance of
languages). Squared error beside it where a decoder will read the vectors: Duquenne et al. 2023, arXiv:2308.11466.
Contrast with hard negatives: InfoNCE, arXiv:1807.03748, with texts that differ in a number, a name or a negation.
Every function gives one value a row; the caller weighs, sums and divides once. Shape letters: B rows of this process,
N rows of all, K negatives of one row, E dim.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from allophone.distributed import gather_rows
from allophone.errors import DataError, ShapeError


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine of each pair.

    Args:
        student: Shape ``(B, E)``.
        teacher: Shape ``(B, E)``; it gets no gradient.

    Returns:
        Shape ``(B,)``, float32, 0 to 2.

    Raises:
        ShapeError: The two differ in shape.
    """
    _require_pairs(student, teacher)
    return 1.0 - F.cosine_similarity(student.float(), teacher.detach().float(), dim=-1)


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of each pair, summed over dims. Both ``(B, E)``; gives ``(B,)``, float32.

    Raises:
        ShapeError: The two differ in shape.
    """
    _require_pairs(student, teacher)
    return (student.float() - teacher.detach().float()).square().sum(dim=-1)


def contrast_with_negatives(
    student: Tensor,
    teacher: Tensor,
    keys: Tensor,
    temperature: float,
    negatives: Tensor | None = None,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each utterance over the texts of all processes and over its own hard negatives.

    Every process must call it. Other utterances that say the same are neither positives nor negatives.

    Args:
        student: Vectors of speech. Shape ``(B, E)``.
        teacher: Vectors of their texts. Shape ``(B, E)``; no gradient.
        keys: Numbers of each text, and of what it says: rows that are equal in one column say the same. Shape
            ``(B, W)``, int64.
        temperature: Divides the cosines.
        negatives: Vectors of texts that are nearly right. Shape ``(B, K, E)``; no gradient.
        valid: Which of them there are. Shape ``(B, K)``, bool; None = all.

    Returns:
        Loss of each row, shape ``(B,)``, float32, and whether its own text is the most similar of all, ``(B,)``, bool.

    Raises:
        ShapeError: Shapes disagree.
    """
    _require_pairs(student, teacher)
    if keys.dim() != 2 or len(keys) != len(student):
        raise ShapeError(f"contrast: keys {tuple(keys.shape)} for {len(student)} rows; expected (rows, columns).")
    speech, own = F.normalize(student.float(), dim=-1), F.normalize(teacher.detach().float(), dim=-1)
    every, every_key = gather_rows(own), gather_rows(keys)
    positive = (speech * own).sum(dim=-1, keepdim=True) / temperature
    others = speech @ every.T / temperature
    same = (keys[:, None] == every_key[None, :]).any(dim=-1)
    logits = [positive, others.masked_fill(same, -torch.inf)]
    if negatives is not None:
        if negatives.shape[::2] != student.shape or (valid is not None and valid.shape != negatives.shape[:2]):
            raise ShapeError(
                f"contrast: negatives {tuple(negatives.shape)} for vectors {tuple(student.shape)}; expected "
                "(rows, negatives, dim) and valid (rows, negatives)."
            )
        hard = torch.einsum("be,bke->bk", speech, F.normalize(negatives.detach().float(), dim=-1)) / temperature
        logits.append(hard if valid is None else hard.masked_fill(~valid, -torch.inf))
    scores = torch.cat(logits, dim=1)
    return scores.logsumexp(dim=1) - positive[:, 0], scores.detach().argmax(dim=1) == 0


def balance_weights(amounts: Mapping[str, float], alpha: float = 0.05) -> dict[str, float]:
    """Weight of an utterance of each language, so that each language counts as its share to the power ``alpha``.

    The mean weight over all utterances is 1, so the denominator of the loss stays what it is.

    Args:
        amounts: Utterances (or seconds) of each language.
        alpha: 1 leaves the languages as they are, 0 makes them equal; 0.05 is the paper's.

    Raises:
        DataError: There is no language, or one without anything.

    Source:
        arXiv:2205.08180, equation 3: ``(1 / p_l) p_l^alpha / sum_k p_k^alpha``. Deviations: none.

    Example:
        >>> balance_weights({"fra_Latn": 3, "eng_Latn": 1}, alpha=0.0)["eng_Latn"]
        2.0
    """
    if not amounts or min(amounts.values()) <= 0:
        raise DataError(f"Weights of languages need an amount above 0 for each; got {dict(amounts)}.")
    total = sum(amounts.values())
    shares = {language: amount / total for language, amount in amounts.items()}
    powers = sum(share**alpha for share in shares.values())
    return {language: share**alpha / powers / share for language, share in shares.items()}


def _require_pairs(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape or student.dim() != 2:
        raise ShapeError(
            f"distillation: vectors of speech {tuple(student.shape)} and of texts {tuple(teacher.shape)}; expected two "
            "equal shapes (rows, dim). Give the embedder the teacher's dims."
        )
