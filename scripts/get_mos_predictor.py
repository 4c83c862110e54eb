#!/usr/bin/env python3
"""Write DistillMOS, which predicts how good speech sounds, as a folder that allophone reads.

    python scripts/get_mos_predictor.py FOLDER
    allophone vocoder score ... --mos FOLDER

Provenance: the PyPI package distillmos 0.9.1 (Microsoft, MIT; arXiv:2502.05356), whose sum is pinned here. It is not
installed, because it wants torchaudio, which would replace torch; its file of weights is read with weights_only.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from allophone.models.conversion import model_hash
from allophone.models.mos_predictor import FORMAT, INFO_FILE, WEIGHTS_FILE, MosPredictor

PACKAGE, MEMBER = "distillmos==0.9.1", "distillmos/weights/distill_mos_v7.pt"
SHA256 = "b18b3ac60227267cfb91e5d00ce22cc7b73716fd92f269484da1446e27031a40"
NAMES = {
    "cnn.cnn.": "convolutions.",
    "transformer_pool_attn.norm_input.": "norm_features.",
    "transformer_pool_attn.transformer.norm.": "norm_input.",
    "transformer_pool_attn.transformer.linear_proj.": "project.",
    "transformer_pool_attn.transformer.position_encoding.pe": "positions",
    "transformer_pool_attn.transformer.transformer_encoder.": "transformer.",
    "transformer_pool_attn.norm_trans.": "norm_output.",
    "transformer_pool_attn.pool.linear1.": "attend.0.",
    "transformer_pool_attn.pool.linear2.": "attend.2.",
    "transformer_pool_attn.pool.linear3.": "mark.",
}
"""Beginnings of its names to ours."""


def fetch() -> bytes:
    """The file of weights out of the package."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder, PACKAGE]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("distillmos-*.whl")
        data = zipfile.ZipFile(wheel).read(MEMBER)
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"{PACKAGE} holds another {MEMBER} than the one this script was checked with.")
    return data


def rename(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under our names."""
    made = {}
    for name, value in given.items():
        old = next(beginning for beginning in NAMES if name.startswith(beginning))
        rest = name.removeprefix(old)
        if old == "cnn.cnn.":  # every other one is an activation
            number, part = rest.split(".")
            rest = f"{int(number) // 2}.{part}"
        made[NAMES[old] + rest] = value.squeeze(0) if old.endswith(".pe") else value
    return made


def main() -> None:
    """Fetch and convert."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write the predictor (17 MB)")
    folder = parser.parse_args().folder
    model = MosPredictor()
    model.load_state_dict(rename(torch.load(io.BytesIO(fetch()), map_location="cpu", weights_only=True)["model"]))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / WEIGHTS_FILE)
    info = {"format": FORMAT, "name": "DistillMOS 7", "source": PACKAGE, "model_hash": model_hash(model)}
    (folder / INFO_FILE).write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"wrote {folder}\n")


if __name__ == "__main__":
    main()
