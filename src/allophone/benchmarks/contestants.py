"""Our pretraining step, and that of ``transformers``' encoder under our loss, in a process of their own.

``python -m allophone.benchmarks.contestants TRAINER BATCH.npz DTYPE THREADS LAYERS SIZE``; see
:mod:`allophone.benchmarks.peers.step`.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import HubertConfig as TheirConfig
from transformers import HubertModel

from allophone.batch import SpeechBatch
from allophone.benchmarks.peers.step import NUM_UNITS, Loss, main
from allophone.losses.masked_prediction import masked_prediction_loss
from allophone.methods.masked_prediction import MaskedPrediction, MaskedPredictionConfig
from allophone.models.hubert import Hubert, HubertConfig

GRADIENT_SCALE = 0.1


def ours(size: dict[str, int]) -> tuple[nn.Module, Loss]:
    """Masked prediction as ``allophone pretrain`` has it."""
    encoder = Hubert(
        HubertConfig(
            num_hidden_layers=size["layers"],
            hidden_size=size["dim"],
            intermediate_size=size["inner"],
            num_attention_heads=size["heads"],
            hidden_dropout=0.1,
            attention_dropout=0.1,
            activation_dropout=0.0,
            feat_proj_dropout=0.1,
            feature_grad_mult=GRADIENT_SCALE,
        )
    )
    method = MaskedPrediction(encoder, MaskedPredictionConfig(num_units=NUM_UNITS))

    def loss(batch: dict[str, Tensor]) -> Tensor:
        speech = SpeechBatch(
            ids=tuple(str(row) for row in range(len(batch["lengths"]))),
            waveform=batch["waveform"],
            waveform_lengths=batch["lengths"],
            frame_lengths=torch.tensor([encoder.clock.count(length) for length in batch["lengths"].tolist()]),
            units=batch["units"][..., None],
            masked=batch["masked"],
        )
        return method.step(speech).loss_sum / method.count(speech)

    return method, loss


class TheirEncoder(nn.Module):
    """``transformers``' encoder with our heads."""

    def __init__(self, size: dict[str, int]) -> None:
        super().__init__()
        config = TheirConfig(
            num_hidden_layers=size["layers"],
            hidden_size=size["dim"],
            intermediate_size=size["inner"],
            num_attention_heads=size["heads"],
            hidden_dropout=0.1,
            attention_dropout=0.1,
            activation_dropout=0.0,
            feat_proj_dropout=0.1,
            layerdrop=0.0,
        )
        self.encoder: Any = HubertModel(config)
        self.final_proj = nn.Linear(size["dim"], 256)
        self.label_embeddings = nn.Parameter(torch.rand(NUM_UNITS, 256))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean loss over the masked frames of a batch; shapes as in :func:`allophone.benchmarks.peers.step.serve`."""
        penalties: list[Tensor] = []
        front_end = self.encoder.feature_extractor
        hook = front_end.register_forward_hook(lambda _, __, made: penalties.append(made.float().square().mean()))
        hidden = self.encoder(
            batch["waveform"], attention_mask=(~batch["padding"]).long(), mask_time_indices=batch["masked"]
        ).last_hidden_state
        hook.remove()
        projected, units = self.final_proj(hidden[batch["masked"]]), batch["units"][batch["masked"]]
        total, _ = masked_prediction_loss(projected, self.label_embeddings, units)
        return total / len(units) + 10.0 * penalties[0]


def theirs(size: dict[str, int]) -> tuple[nn.Module, Loss]:
    """The encoder of ``transformers`` (SDPA, padding masked) under the loss that ours has, with the same weights."""
    own, _ = ours(size)  # first, as in its own process: the same seed draws the same weights
    module, weights = TheirEncoder(size), own.state_dict()
    module.load_state_dict({name: weights[name] for name in module.state_dict()})
    return module, module


CONTESTANTS = {"allophone": ours, "transformers": theirs}

if __name__ == "__main__":
    main(CONTESTANTS[sys.argv[1]], sys.argv[2:])
