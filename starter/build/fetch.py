"""Fetch the packages with ``apt-get``, check their sums, and extract each into its own folder.

    python fetch.py --packages DIR

Debian packages need Debian 12 (bookworm) sources and ``apt-get update`` once; nothing is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import subprocess
import sys
import tarfile
from pathlib import Path

DEBIAN: dict[str, tuple[str, str]] = {
    "asterisk-core-sounds-en-g722": (
        "1.6.1-1",
        "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806",
    ),
    "asterisk-core-sounds-en": (
        "1.6.1-1",
        "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
    ),
    "asterisk-core-sounds-es-g722": (
        "1.6.1-1",
        "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8",
    ),
    "asterisk-core-sounds-es": (
        "1.6.1-1",
        "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74",
    ),
    "asterisk-core-sounds-fr-g722": (
        "1.6.1-1",
        "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0",
    ),
    "asterisk-core-sounds-fr": (
        "1.6.1-1",
        "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056",
    ),
    "asterisk-core-sounds-it-g722": (
        "1.6.1-1",
        "46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016",
    ),
    "asterisk-core-sounds-it": (
        "1.6.1-1",
        "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b",
    ),
    "asterisk-core-sounds-ru-g722": (
        "1.6.1-1",
        "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b",
    ),
    "asterisk-core-sounds-ru": (
        "1.6.1-1",
        "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab",
    ),
    "asterisk-prompt-es-co": (
        "0.20070403-2.1",
        "6702696e045514699e87dc8fb70f370717e5df91f821f7bec8dd0df1be008e83",
    ),
    "asterisk-prompt-fr-armelle": (
        "20070613-2.2",
        "162570b1a9b3512a98f06b89f60c7c17cf1b9b52297315adca9a4e5be728bea3",
    ),
    "asterisk-prompt-it-menardi-wav": (
        "1:1.4.22+mm20110907-3.1",
        "3094530d98f8758ac275572d59624c41f60969fef883f34f4886d144f3dfeb21",
    ),
    "festvox-ru": (
        "0.5+dfsg-6",
        "21ef3f0f2978ecf2e2eddb367cb0ff4a72572196d28dc69feb84f4177af5e6c4",
    ),
    "flight-of-the-amazon-queen": (
        "1.0.0-9",
        "40c08fd258d6fe95c46c1eaf5e9137f84ba330657995a281bd887c94a560a0f1",
    ),
    "hedgewars-data": (
        "1.0.2-6",
        "722225903a72604403e6e0026e40e9a6953f47a74d94efc5f55504bc05bb4761",
    ),
    "kajongg": (
        "4:22.12.3-1",
        "be0a9cc0f9a97064ffa0ab01133f55e021c7c58f9869857431bf1ca951dadbaf",
    ),
    "ktuberling-data": (
        "4:22.12.3-1",
        "fba44c875bfa31ea488dadd9263e87a4dcaea0bd47d28817f6c0dc6d2af970ed",
    ),
    "tuxpaint-stamps-default": (
        "2022.06.04-1",
        "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    ),
}
"""Package to its version and the sha256 of its ``.deb``."""

SDIST = "pyannote_audio-4.0.7.tar.gz"
SDIST_SHA256 = "3a903dfb5ca711d134cc2522561c9158b186836f5d62e8a57c46c6648e8a8229"
log = logging.getLogger("fetch")


class WrongSum(Exception):
    """A downloaded file is not the pinned one."""


def check(path: Path, expected: str) -> None:
    """Compare the sha256 of a file.

    Raises:
        WrongSum: The file is another one.
    """
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise WrongSum(f"{path}: sha256 is {found}, expected {expected}. Remove the file and fetch it again.")


def fetch_debian(package: str, folder: Path) -> None:
    """Download and extract one Debian package to ``folder/package``."""
    version, expected = DEBIAN[package]
    target = folder / package
    if target.is_dir():
        return
    subprocess.run(["apt-get", "download", f"{package}={version}"], cwd=folder, check=True)
    archive = next(folder.glob(f"{package}_*.deb"))
    check(archive, expected)
    subprocess.run(["dpkg-deb", "-x", str(archive), str(target)], check=True)
    archive.unlink()


def fetch_pyannote(folder: Path) -> None:
    """Download the source archive of pyannote-audio and extract its test recordings."""
    target = folder / "pyannote-audio"
    if target.is_dir():
        return
    archive = folder / SDIST
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), "pyannote-audio==4.0.7"], check=True)
    check(archive, SDIST_SHA256)
    with tarfile.open(archive) as sdist:
        wanted = [member for member in sdist.getmembers() if "/tests/data/" in member.name or "LICENSE" in member.name]
        sdist.extractall(target, members=wanted, filter="data")
    archive.unlink()


def main() -> None:
    """Fetch everything that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder for the extracted packages")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.packages.mkdir(parents=True, exist_ok=True)
    for package in DEBIAN:
        log.info("%s", package)
        fetch_debian(package, arguments.packages)
    fetch_pyannote(arguments.packages)


if __name__ == "__main__":
    main()
