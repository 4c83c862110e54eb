"""The predictor of opinions: windows, loudness, and folders; its weights are compared with the package's by hand."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from allophone.errors import AudioError, CheckpointError
from allophone.models import mos_predictor
from allophone.models.conversion import model_hash
from allophone.models.mos_predictor import (
    FORMAT,
    INFO_FILE,
    LONGEST_HOP,
    WEIGHTS_FILE,
    WINDOW,
    MosPredictor,
    load_mos_predictor,
)


@pytest.fixture(scope="module")
def predictor() -> MosPredictor:
    torch.manual_seed(0)
    return MosPredictor().eval()


def test_a_recording_is_judged_by_windows_that_cover_it(predictor: MosPredictor, monkeypatch) -> None:
    heard = []
    monkeypatch.setattr(MosPredictor, "forward", lambda self, windows: heard.append(windows) or torch.tensor([2.0]))
    wave = torch.arange(1, WINDOW + 2 * LONGEST_HOP + 2).float()
    assert predictor.predict(wave) == 2.0
    starts = [int(window[0, 0]) - 1 for window in heard]
    assert starts[0] == 0 and starts[-1] == len(wave) - WINDOW and len(starts) == 4
    assert max(later - earlier for earlier, later in pairwise(starts)) <= LONGEST_HOP
    heard.clear()
    predictor.predict(wave[:100])
    assert heard[0].shape == (1, WINDOW) and not heard[0][0, 100:].any()


def test_loudness_does_not_count_and_marks_lie_between_one_and_five(predictor: MosPredictor) -> None:
    wave = torch.randn(1, WINDOW, generator=torch.Generator().manual_seed(0)) / 10
    with torch.inference_mode():
        both = predictor(torch.cat([wave, wave / 4]))
    assert float(both[0]) == pytest.approx(float(both[1]), abs=1e-3)
    assert 1 < float(both[0]) < 5


def test_folders_open_again_and_broken_ones_are_refused(predictor: MosPredictor, tmp_path: Path) -> None:
    save_file(predictor.state_dict(), tmp_path / WEIGHTS_FILE)
    (tmp_path / INFO_FILE).write_text(json.dumps({"format": FORMAT, "model_hash": model_hash(predictor)}))
    again = load_mos_predictor(tmp_path)
    assert model_hash(again) == model_hash(predictor) and not again.training
    (tmp_path / INFO_FILE).write_text(json.dumps({"format": FORMAT, "model_hash": "other"}))
    with pytest.raises(CheckpointError, match=r"written for weights other.*get_mos_predictor\.py"):
        load_mos_predictor(tmp_path)
    with pytest.raises(CheckpointError, match=r"get_mos_predictor\.py"):
        load_mos_predictor(tmp_path / "nothing")
    with pytest.raises(AudioError, match="one recording"):
        predictor.predict(torch.zeros(0))
    assert mos_predictor.FRAMES * mos_predictor.HOP * 2 == WINDOW
