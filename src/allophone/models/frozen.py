"""Hidden states of an encoder whose weights do not change, kept in memory, so that no recording is encoded twice.

They are kept by the samples themselves, so that a recording that was cropped or perturbed otherwise is another one, or
by name. Shape letters: B utterances, S samples, N frames of all, T frames of one, L layers kept, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from allophone.batch import Packed
from allophone.models.build import Encoder

STATE_BYTES = 4 * 1024**3
"""Most memory for states; the last one of Whisper base takes it in 11 hours, or in 22 at half precision."""


class FrozenStates:
    """What an encoder makes of recordings, computed once for each.

    On a CPU every utterance is encoded by itself, and states are given as they are kept from the first time on. So
    nothing depends on which utterances came before or fit into memory, and an interrupted training goes on as if it had
    not been. This is no module, so that the encoder's weights are not saved twice.

    Args:
        encoder: In evaluation mode whenever it is called; it must not change.
        layers: Hidden states that are wanted, 0 = input of layer 1; no layer behind the last of them is run.
        dtype: They are kept in.
        most_bytes: What is kept at most, on the CPU; beyond it, states are computed again each time.
    """

    def __init__(
        self,
        encoder: Encoder,
        layers: Sequence[int],
        *,
        dtype: torch.dtype = torch.float32,
        most_bytes: int = STATE_BYTES,
    ) -> None:
        self.encoder = encoder
        self.layers = tuple(layers)
        self._dtype = dtype
        self.most_bytes = self._room = most_bytes
        self._known: dict[str, Tensor] = {}

    @property
    def kept_bytes(self) -> int:
        """What the states take that are kept."""
        return self.most_bytes - self._room

    def __call__(
        self, waveform: Tensor, waveform_lengths: Tensor, names: Sequence[str] | None = None
    ) -> tuple[Packed, ...]:
        """Hidden states of a batch, float32, without gradients.

        Args:
            waveform: Shape ``(B, S)``, float32 in [-1, 1], 16 kHz.
            waveform_lengths: Shape ``(B,)``, int64, samples.
            names: Of utterances that are whole each time, though a sampler may cut samples that fill no frame off their
                end; None = known by their samples. One object is called in one of the two ways.

        Returns:
            For each layer, packed ``(N, D)``.
        """
        lengths = waveform_lengths.tolist()
        keys = names or [_key(row[:length]) for row, length in zip(waveform, lengths, strict=True)]
        new = {key: place for place, key in enumerate(keys) if key not in self._known}
        fresh = dict(zip(new, self._computed(waveform, lengths, list(new.values())), strict=True))
        states = [fresh[key] if key in fresh else self._known[key] for key in keys]
        for key, state in fresh.items():
            if state.nbytes <= self._room:
                self._known[key] = state
                self._room -= state.nbytes
        frames = tuple(state.shape[1] for state in states)
        every = torch.cat([state.to(waveform.device, torch.float32) for state in states], dim=1)
        return tuple(Packed(values, frames) for values in every)

    def _computed(self, waveform: Tensor, lengths: Sequence[int], places: Sequence[int]) -> list[Tensor]:
        """States of some rows, each ``(L, T, D)``, on the CPU, as they are kept."""
        size = 1 if waveform.device.type == "cpu" else max(1, len(places))
        found: list[Tensor] = []
        for start in range(0, len(places), size):
            part = list(places[start : start + size])
            own = torch.tensor([lengths[place] for place in part], device=waveform.device)
            with torch.no_grad():
                output = self.encoder(waveform[part, : int(own.max())], own, num_layers=max(self.layers))
            hidden = [output.hidden_states[layer] for layer in self.layers]
            utterances = zip(*(state.split() for state in hidden), strict=True)
            found += [torch.stack(own_states).to("cpu", self._dtype) for own_states in utterances]
        return found


def _key(samples: Tensor) -> str:
    return blake2b(samples.detach().cpu().contiguous().numpy().data, digest_size=16).hexdigest()
