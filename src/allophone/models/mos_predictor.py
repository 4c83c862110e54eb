"""How good speech would sound to people, as a small network guesses it: DistillMOS.

Source: Stahl & Gamper 2025, arXiv:2502.05356 (a student of XLS-R's predictor, 4 M parameters), and its published code
for what stands before the network. It was trained on telephone and conference speech with people's marks of 1 to 5; it
is a guess, and of made speech least of all the last word. ``scripts/get_mos_predictor.py`` makes the folder that is
read here, because the package that holds the weights wants torchaudio for reading files alone.
Shape letters: S samples, W windows, F frequencies, T frames, D dim.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from allophone.errors import AudioError, CheckpointError
from allophone.models.conversion import model_hash

WEIGHTS_FILE, INFO_FILE = "mos_predictor.safetensors", "mos_predictor.json"
FORMAT = "allophone-mos-predictor-1"
WINDOW, LONGEST_HOP = 122_880, 16_000
"""Samples that are judged at once, 7.68 s, and between two windows at most."""
FFT_SIZE, HOP = 320, 160
FRAMES, DIM, HEADS, LAYERS = 384, 200, 8, 7
CHANNELS = (64, 64, 128, 256, 256, 256)
PATCH = 4 * CHANNELS[-1]
"""Values of a frame after the convolutions."""


class MosPredictor(nn.Module):
    """Convolutions over a compressed complex spectrogram, a Transformer, and attention over time."""

    def __init__(self) -> None:
        super().__init__()
        widths, last = (2, *CHANNELS), len(CHANNELS) - 1
        self.convolutions = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride=(min(i, 1) + 1, 2 if i == last else 1), padding=(0, 1))
            for i in range(len(CHANNELS))
        )
        self.norm_features = nn.BatchNorm1d(PATCH)
        self.norm_input = nn.BatchNorm1d(PATCH)
        self.project = nn.Linear(PATCH, DIM)
        self.register_buffer("positions", torch.zeros(FRAMES, DIM))
        layer = nn.TransformerEncoderLayer(DIM, HEADS, 2 * DIM, dropout=0.0, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.norm_output = nn.BatchNorm1d(DIM)
        self.attend = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.ReLU(), nn.Linear(2 * DIM, 1))
        self.mark = nn.Linear(DIM, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """Marks from 1 to 5 of windows ``(W, WINDOW)`` at 16 kHz. Shape ``(W,)``."""
        windows = windows / (windows.abs().amax(dim=1, keepdim=True) + 1e-8)
        hidden = _compressed(windows)
        for convolution in self.convolutions:
            hidden = functional.leaky_relu(convolution(hidden), 0.1)
        features = self.norm_input(self.norm_features(hidden.flatten(1, 2)))  # (W, PATCH, FRAMES)
        hidden = self.transformer(self.project(features.transpose(1, 2)) + self.positions)
        hidden = self.norm_output(hidden.transpose(1, 2)).transpose(1, 2)
        weights = self.attend(hidden).softmax(dim=1)
        marks: Tensor = 1 + 4 * self.mark((weights * hidden).sum(dim=1)).sigmoid().squeeze(1)
        return marks

    @torch.inference_mode()
    def predict(self, waveform: Tensor) -> float:
        """Mean mark of the windows of one recording ``(S,)``, 16 kHz, which is padded to at least one window.

        Raises:
            AudioError: It has no sample, or more than one dimension.

        Example:
            >>> 1 <= MosPredictor().eval().predict(torch.zeros(16_000)) <= 5
            True
        """
        if waveform.ndim != 1 or not len(waveform):
            raise AudioError(f"A mark is predicted of one recording (samples,); got {tuple(waveform.shape)}.")
        beyond = max(0, len(waveform) - WINDOW)
        padded = functional.pad(waveform.float(), (0, max(0, WINDOW - len(waveform))))
        count = math.ceil(beyond / LONGEST_HOP) + 1
        starts = [beyond * number // max(1, count - 1) for number in range(count)]
        return float(torch.cat([self(padded[None, start : start + WINDOW]) for start in starts]).mean())


def _compressed(windows: Tensor) -> Tensor:
    """Real and imaginary part of the spectrogram at the magnitude to the power 0.3. Shape ``(W, 2, F, T)``."""
    edge = (FFT_SIZE - HOP) // 2
    padded = functional.pad(windows, (edge, edge), mode="reflect")
    window = torch.hann_window(FFT_SIZE, device=windows.device)
    spectrum = torch.view_as_real(
        torch.stft(padded, FFT_SIZE, HOP, window=window, center=False, return_complex=True)
    ).permute(0, 3, 1, 2)
    magnitude = spectrum.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
    return magnitude**0.3 * spectrum / magnitude


def load_mos_predictor(folder: str | Path) -> MosPredictor:
    """Read what ``scripts/get_mos_predictor.py`` wrote, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights are not those that were written.
    """
    folder = Path(folder)
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        if not isinstance(info, dict) or info.get("format") != FORMAT:
            raise CheckpointError(f"the format is not '{FORMAT}'.")
        model = MosPredictor()
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        if info.get("model_hash") != (found := model_hash(model)):
            raise CheckpointError(f"was written for weights {info.get('model_hash')}; got {found} beside it.")
    except (OSError, ValueError, RuntimeError, CheckpointError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder / INFO_FILE}: {reason} Make the folder with scripts/get_mos_predictor.py."
        ) from error
    return model.eval()
