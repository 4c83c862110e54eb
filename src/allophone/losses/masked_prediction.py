"""Cross-entropy over cosine similarities to a table of unit embeddings (HuBERT).

Source: Hsu et al. 2021, arXiv:2106.07447, section II-B, equation 3; fairseq places the positive at index 0 and hides
its duplicate, which equals the plain cross-entropy written here. Shape letters: M predictions, K units, E dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_prediction_loss(
    projected: Tensor, table: Tensor, units: Tensor, temperature: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Sum of cross-entropies and number of correct predictions; the caller divides.

    Args:
        projected: Projected hidden states. Shape ``(M, E)``, any float dtype; computed in float32.
        table: Unit embeddings. Shape ``(K, E)``.
        units: Targets. Shape ``(M,)``, int64, 0 to K - 1.
        temperature: Divides the cosines; 0.1 in HuBERT.

    Returns:
        ``loss_sum`` and ``correct``, both of shape ``()``; zero for M = 0.
    """
    with torch.autocast(projected.device.type, enabled=False):
        cosines = F.normalize(projected.float(), dim=-1, eps=1e-8) @ F.normalize(table.float(), dim=-1, eps=1e-8).T
        logits = cosines / temperature
        loss_sum = F.cross_entropy(logits, units, reduction="sum")
    return loss_sum, (logits.detach().argmax(dim=-1) == units).sum()
