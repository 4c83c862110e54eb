"""What users hold: audio in, vectors, frames or units out.

Shape letters: S samples, T frames, D dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from allophone.audio.io import Audio, to_waveform
from allophone.batch import Packed
from allophone.errors import AudioError, CheckpointError, ConfigError
from allophone.models.build import Encoder, build_encoder
from allophone.models.conversion import load_encoder, model_folder, model_hash
from allophone.nn.clustering import assign
from allophone.nn.codebook import Codebook

DEVIATION_FLOOR = 1e-5
"""Added to a feature's standard deviation over a voice, as where codebooks are fitted."""


class SpeechEncoder:
    """An encoder in evaluation mode, on one device, with the codebook that lies beside it, if any.

    Args:
        encoder: The model; it is put into evaluation mode.
        codebook: Turns its frames into units.
        device: Where to compute.

    Raises:
        CheckpointError: The codebook was made for another model.
    """

    def __init__(self, encoder: Encoder, codebook: Codebook | None = None, device: torch.device | str = "cpu") -> None:
        self.encoder = encoder.to(device).eval()
        self.device = torch.device(device)
        self.codebook = None if codebook is None else self._checked(codebook).to(device)

    @staticmethod
    def load(name: str | Path, device: torch.device | str = "cpu") -> SpeechEncoder:
        """Read a model folder or hub model, and the codebook in the folder where there is one.

        Raises:
            CheckpointError: See :func:`allophone.models.conversion.load_encoder`.
        """
        folder = model_folder(name)
        codebook = Codebook.load(folder) if (folder / "codebook.json").exists() else None
        return SpeechEncoder(load_encoder(folder), codebook, device)

    def random_like(self, seed: int) -> SpeechEncoder:
        """The same architecture with random weights, the control of every evaluation. The global generator is kept."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return SpeechEncoder(build_encoder(self.encoder.config), device=self.device)

    @cached_property
    def model_hash(self) -> str:
        """Hash of the weights, as codebooks and indexes name it."""
        return model_hash(self.encoder)

    def encode(
        self,
        audios: Sequence[Audio],
        *,
        batch_size: int = 16,
        normalize_embeddings: bool = False,
        layer: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float32]:
        """One vector per recording: the mean of its frames.

        Args:
            audios: Paths, arrays or tensors of shape ``(S,)`` at 16 kHz, or mappings with "array" and "sampling_rate".
            batch_size: Recordings at once; the result does not depend on it.
            normalize_embeddings: Scale each vector to length 1.
            layer: Hidden state to average, 0 = input of layer 1; None takes the last.
            progress: Called with (done, total).

        Returns:
            Shape ``(len(audios), D)``, float32, in the order of ``audios``.

        Raises:
            AudioError: A recording cannot be read or is shorter than a frame.
            ConfigError: There is no such layer.
        """
        if isinstance(audios, str | Path | dict | np.ndarray | Tensor):
            kind = type(audios).__name__
            raise ConfigError(f"encode takes a list of recordings; got one {kind}. Write encode([audio]).")
        waveforms = [self._waveform(audio) for audio in audios]
        order = sorted(range(len(waveforms)), key=lambda index: -len(waveforms[index]))
        embeddings = torch.empty(len(waveforms), self.encoder.dim)
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            frames = self._hidden([waveforms[index] for index in indices], layer)
            embeddings[indices] = torch.stack([utterance.mean(dim=0) for utterance in frames.split()]).cpu()
            if progress is not None:
                progress(min(start + batch_size, len(order)), len(order))
        if normalize_embeddings:
            embeddings = functional.normalize(embeddings, dim=-1)
        vectors: NDArray[np.float32] = embeddings.numpy()
        return vectors

    def frames(self, audio: Audio, layer: int | None = None) -> NDArray[np.float32]:
        """Hidden states of one recording.

        Args:
            audio: A path, an array or tensor of shape ``(S,)`` at 16 kHz, or a mapping with "array", "sampling_rate".
            layer: 0 = input of layer 1; None takes the last.

        Returns:
            Shape ``(T, D)``, float32; ``encoder.clock`` says when each frame is.

        Raises:
            AudioError: The recording cannot be read or is shorter than a frame.
            ConfigError: There is no such layer.
        """
        states: NDArray[np.float32] = self._hidden([self._waveform(audio)], layer).values.cpu().numpy()
        return states

    def units(self, audio: Audio) -> NDArray[np.int64]:
        """Unit of each frame of one recording.

        Where the codebook standardizes frames per voice, the recording is taken as one voice.

        Args:
            audio: A path, an array or tensor of shape ``(S,)`` at 16 kHz, or a mapping with "array", "sampling_rate".

        Returns:
            Shape ``(T,)``, int64.

        Raises:
            CheckpointError: There is no codebook beside the model.
            AudioError: The recording cannot be read or is shorter than a frame.
        """
        if self.codebook is None:
            raise CheckpointError("This model has no codebook beside it; make one with `allophone units fit`.")
        frames = self._hidden([self._waveform(audio)], self.codebook.info.layer).values
        if self.codebook.info.normalization == "voice":
            deviation, mean = torch.std_mean(frames.double(), dim=0, correction=0)
            frames = ((frames - mean) / (deviation + DEVIATION_FLOOR)).float()
        units: NDArray[np.int64] = assign(frames, self.codebook.centroids).cpu().numpy()
        return units

    def _hidden(self, waveforms: Sequence[Tensor], layer: int | None) -> Packed:
        last = self.encoder.num_layers if layer is None else layer
        if not 0 <= last <= self.encoder.num_layers:
            raise ConfigError(f"layer {last}: the encoder has hidden states 0 to {self.encoder.num_layers}.")
        lengths = torch.tensor([len(waveform) for waveform in waveforms], device=self.device)
        padded = pad_sequence(list(waveforms), batch_first=True).to(self.device)
        with torch.inference_mode():
            state: Packed = self.encoder(padded, lengths, num_layers=last).hidden_states[last]
        return state.with_values(state.values.float())

    def _waveform(self, audio: Audio) -> Tensor:
        waveform = to_waveform(audio)
        field = self.encoder.clock.receptive_field
        if len(waveform) < field:
            name = f"{audio}: " if isinstance(audio, str | Path) else ""
            raise AudioError(f"{name}{len(waveform)} samples; one frame of this encoder needs {field}. Leave it out.")
        return waveform

    def _checked(self, codebook: Codebook) -> Codebook:
        info, dim = codebook.info, codebook.centroids.shape[1]
        if info.front_end != "model" or info.model_hash != self.model_hash or dim != self.encoder.dim:
            raise CheckpointError(
                f"The codebook labels frames of {info.front_end} {info.model_hash or ''} with {dim} dims; this model "
                f"is {self.model_hash} with {self.encoder.dim}. Fit one on it: `allophone units fit`."
            )
        return codebook
