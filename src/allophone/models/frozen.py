"""What a frozen encoder made of recordings, kept, so that a training which meets them again does not compute it again.

Kept in memory only, by the samples themselves: a recording that was cropped or perturbed otherwise is another one.
Shape letters: B utterances, S samples, N frames of all, D dim.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor

from allophone.batch import Packed
from allophone.models.build import Encoder


class FrozenStates:
    """Hidden states of an encoder whose weights do not change.

    On a CPU every utterance is encoded by itself, so that what it gives does not depend on which ones came before, and
    an interrupted training goes on as if it had not been.

    Args:
        encoder: In evaluation mode and without gradients when it is called.
        all_layers: Keep every hidden state; otherwise the last one.
        most_bytes: What is kept at most; beyond it, states are computed again each time.
    """

    def __init__(self, encoder: Encoder, *, all_layers: bool, most_bytes: int) -> None:
        self._encoder = encoder
        self._first = 0 if all_layers else -1
        self._room = most_bytes
        self._known: dict[bytes, tuple[Tensor, ...]] = {}

    def __call__(self, waveform: Tensor, waveform_lengths: Tensor) -> tuple[Packed, ...]:
        """Hidden states of a batch, without gradients.

        Args:
            waveform: Shape ``(B, S)``, float32 in [-1, 1], 16 kHz.
            waveform_lengths: Shape ``(B,)``, int64, samples.

        Returns:
            Each packed ``(N, D)``; one, or as many as the encoder has.
        """
        lengths = waveform_lengths.tolist()
        keys = [_key(row[:length]) for row, length in zip(waveform, lengths, strict=True)]
        fresh = [place for place, key in enumerate(keys) if key not in self._known]
        found = {place: self._known[key] for place, key in enumerate(keys) if key in self._known}
        size = 1 if waveform.device.type == "cpu" else len(keys)
        for start in range(0, len(fresh), size):
            part = fresh[start : start + size]
            kept = torch.tensor([lengths[place] for place in part], device=waveform.device)
            with torch.no_grad():
                states = self._encoder(waveform[part, : int(kept.max())], kept).hidden_states[self._first :]
            for place, rows in zip(part, zip(*(state.split() for state in states), strict=True), strict=True):
                found[place] = tuple(row.clone() for row in rows)
                self._keep(keys[place], found[place])
        kept_rows = [found[place] for place in range(len(keys))]
        return tuple(Packed(torch.cat(list(layer)), tuple(map(len, layer))) for layer in zip(*kept_rows, strict=True))

    def _keep(self, key: bytes, states: tuple[Tensor, ...]) -> None:
        size = sum(state.nbytes for state in states)
        if size <= self._room:
            self._room -= size
            self._known[key] = states


def _key(samples: Tensor) -> bytes:
    return blake2b(samples.detach().cpu().contiguous().numpy().data, digest_size=16).digest()
