"""Hidden states of an encoder that is not trained, computed once for each utterance and kept in memory.

Every epoch after the first is then free of the encoder. They are kept in half precision and given so from the first
time on, so that neither memory nor a resume changes a result. Whole utterances only: a clip that is cropped or
disturbed differently each time has no states to keep.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from allophone.batch import Packed, SpeechBatch
from allophone.models.build import Encoder

STATE_BYTES = 2 * 1024**3
"""Most memory for states; beyond it they are computed again each time."""


class FrozenStates:
    """What an encoder makes of utterances.

    Args:
        encoder: Frozen, in evaluation mode.
        layers: Hidden states to keep, 0 = input of layer 1.
        budget_bytes: Most memory.
    """

    def __init__(self, encoder: Encoder, layers: Sequence[int], budget_bytes: int = STATE_BYTES) -> None:
        self._encoder = encoder
        self._layers = tuple(layers)
        self._budget = budget_bytes
        self._kept: dict[tuple[str, int], Tensor] = {}
        self.used_bytes = 0

    def __call__(self, batch: SpeechBatch) -> list[Packed]:
        """States of a batch, one packed ``(frames of all utterances, dim)`` for each layer that is kept."""
        lengths = batch.waveform_lengths.tolist()
        keys = list(zip(batch.ids, lengths, strict=True))
        new = [row for row, key in enumerate(keys) if key not in self._kept]
        found = dict(zip((keys[row] for row in new), self._computed(batch, new), strict=True)) if new else {}
        states = [found[key] if key in found else self._kept[key] for key in keys]
        for key, value in found.items():
            if self.used_bytes + value.nbytes <= self._budget:
                self._kept[key] = value
                self.used_bytes += value.nbytes
        frames = tuple(value.shape[1] for value in states)
        every = torch.cat([value.float() for value in states], dim=1).to(batch.waveform.device)
        return [Packed(values, frames) for values in every]

    @torch.no_grad()
    def _computed(self, batch: SpeechBatch, rows: Sequence[int]) -> list[Tensor]:
        """States of some rows, each ``(layers, frames, dim)``, float16, on the CPU."""
        lengths = batch.waveform_lengths[list(rows)]
        waveform = batch.waveform[list(rows), : int(lengths.max())]
        hidden = self._encoder(waveform, lengths).hidden_states
        stacked = torch.stack([hidden[layer].values for layer in self._layers]).half().cpu()
        return list(stacked.split(hidden[0].lengths, dim=1))
