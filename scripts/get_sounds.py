#!/usr/bin/env python3
"""Fetch labelled sounds that are not speech: 78 kinds of interface sounds, each made by 12 makers.

    python scripts/get_sounds.py FOLDER
    allophone corpus import FOLDER/sounds.csv --out corpora/sounds
    allophone claims run pair-tuning --sounds corpora/sounds

Provenance: the npm package uisfx 0.4.0 (recipes MIT, audio CC0), whose sum is pinned here. The sounds are synthesized,
and marked so. Needs ``npm``; nothing of the package is run.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import subprocess
import tarfile
from pathlib import Path

PACKAGE = "uisfx@0.4.0"
SHA256 = "fd2b482bc9addfe2f9f0223e97398bf4c6eaaf12714bb540cbd9c5c998b3050a"
COLUMNS = ("path", "id", "language", "label", "speaker", "source", "licence", "synthetic")


def main() -> None:
    """Fetch, unpack and list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write the sounds (5 MB) and sounds.csv")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    packed = folder / "uisfx-0.4.0.tgz"
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    if hashlib.sha256(packed.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{packed} is another {PACKAGE} than the one this script was checked with.")
    with tarfile.open(packed) as archive:
        manifest = json.loads(archive.extractfile("package/manifest.json").read())  # type: ignore[union-attr]
        chosen = [one for one in archive.getmembers() if one.name.endswith(".ogg")]
        archive.extractall(folder, members=chosen, filter="data")
    packed.unlink()
    with (folder / "sounds.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for asset in manifest["assets"]:
            cue, pack, path = asset["cue"], asset["pack"], f"package/{asset['files']['ogg']['path']}"
            table.writerow([path, f"{pack}-{cue}", "zxx", cue, pack, PACKAGE, "CC0-1.0", "true"])


if __name__ == "__main__":
    main()
