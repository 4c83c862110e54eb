"""Environments of their own for peers that do not live beside current libraries, made where they are missing.

Each is a virtual environment that sees the packages of ours (so torch is the same for all) and has the peer's wheels or
sources before them, without dependencies. Nothing is compiled: of what has compiled parts, the HuBERT step needs none.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

from allophone.errors import AllophoneError


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What to put into an environment."""

    wheels: tuple[str, ...]
    """Installed by pip without dependencies."""
    sources: tuple[tuple[str, str], ...] = ()
    """Source archives and the package folder that is taken out of each."""
    removed: tuple[str, ...] = ()
    """Folders of wheels that are removed: compiled parts for hardware that is not here."""


ANTLR = ("antlr4-python3-runtime==4.9.3", "src/antlr4")
RECIPES = {
    "fairseq": Recipe(
        wheels=(
            *("omegaconf==2.3.0", "hydra-core==1.3.2", "bitarray", "sacrebleu"),
            *("portalocker", "tabulate", "colorama", "lxml"),
        ),
        sources=(("fairseq-fixed==0.12.3.1", "fairseq"), ANTLR),
    ),
    "torchaudio": Recipe(wheels=("torchaudio==2.11.0",), removed=("torchaudio/lib",)),
    "s3prl": Recipe(wheels=("omegaconf==2.3.0",), sources=(("s3prl==0.4.18", "s3prl"), ANTLR)),
}
"""Trainers that install here, with the newest release of each."""
NOT_THERE = {"minimal-hubert": "not on PyPI, and its repository needs Python 3.12"}
"""Trainers that cannot be installed, with the reason."""


def environment(folder: Path, name: str) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there.

    Args:
        folder: Holds one folder an environment.
        name: One of :data:`RECIPES`.

    Raises:
        AllophoneError: pip failed; the message ends with its last line.
    """
    home = folder / name
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if (home / "complete").exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=False, symlinks=sys.platform != "win32")
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    recipe = RECIPES[name]
    _pip("install", "--target", str(packages), "--only-binary", ":all:", *recipe.wheels)
    for requirement, inside in recipe.sources:
        _unpack(requirement, inside, packages)
    for part in recipe.removed:
        shutil.rmtree(packages / part, ignore_errors=True)
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (home / "complete").touch()
    return python


def _pip(command: str, *arguments: str) -> None:
    call = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--disable-pip-version-check", *arguments]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise AllophoneError(f"pip {command} failed: {lines[-1]}")


def _unpack(requirement: str, inside: str, packages: Path) -> None:
    """Take one package folder out of a source archive."""
    with tempfile.TemporaryDirectory() as name:
        # pip asks an archive for its metadata; with our setuptools that needs none of what building it would.
        _pip("download", "--no-build-isolation", "--no-binary", ":all:", "--dest", name, requirement)
        (archive,) = Path(name).glob("*.tar.gz")
        unpacked = Path(name) / "unpacked"
        with tarfile.open(archive) as members:
            members.extractall(unpacked, filter="data")
        (root,) = unpacked.iterdir()
        shutil.copytree(root / inside, packages / Path(inside).name)
