"""What this machine has, and how to mend what it lacks: devices, codecs, disk, memory, versions, starter files.

Every check is a small function that returns one :class:`Check`; none of them raises, changes anything or needs the
network.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import soundfile
import torch

from allophone.train.precision import has_bf16

Status = Literal["good", "warning", "bad"]

CODECS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}
"""Name, libsndfile container and encoding of each format that is tried."""
MIN_DISK_GIB, MIN_MEMORY_GIB = 5.0, 4.0
GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    status: Status
    """good; warning: works, but less than it could; bad: something will fail."""
    found: str
    """What there is."""
    mend: str = ""
    """What to do about it; empty when good."""


def doctor(folder: Path) -> tuple[Check, ...]:
    """Run every check; ``folder`` is where the user would work."""
    return (
        check_python(sys.version_info[:3]),
        check_torch(),
        check_bfloat16(has_bf16(torch.device("cpu")), matmul_seconds(torch.float32) / matmul_seconds(torch.bfloat16)),
        check_gpu(),
        check_codecs(readable_codecs()),
        check_pyav(),
        check_disk(folder, shutil.disk_usage(folder).free),
        check_memory(available_memory()),
        check_versions(pinned_versions(constraints_path()), installed_versions()),
        check_starter(starter_files()),
        *((check_ray(importlib.metadata.version("ray")),) if importlib.util.find_spec("ray") else ()),
    )


def check_python(version: tuple[int, ...]) -> Check:
    """Python itself."""
    found = f"{'.'.join(map(str, version))} on {platform.system()} {platform.machine()}"
    if version[:2] < (3, 11):
        return Check(name="python", status="bad", found=found, mend="Use Python 3.11 or newer.")
    return Check(name="python", status="good", found=found)


def check_torch() -> Check:
    """Threads of torch."""
    threads, cores = torch.get_num_threads(), available_cores()
    found = f"{torch.__version__}, {threads} threads on {cores} cores"
    if threads > cores:
        return Check(name="torch", status="warning", found=found, mend=f"Set OMP_NUM_THREADS={cores}.")
    return Check(name="torch", status="good", found=found)


def check_bfloat16(native: bool, ratio: float) -> Check:
    """Whether bfloat16 can be used on the CPU, and how much faster it is than float32, measured."""
    found = f"{'native' if native else 'emulated'}; matrix products {ratio:.1f} x as fast as in fp32 on this CPU"
    if not native:
        return Check(name="bf16", status="warning", found=found, mend="Training on this CPU stays in fp32.")
    return Check(name="bf16", status="good", found=found)


def matmul_seconds(dtype: torch.dtype) -> float:
    """Median time of a 768 x 768 x 768 matrix product, in seconds."""
    matrix = torch.ones(768, 768, dtype=dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return median(times[1:])


def check_gpu() -> Check:
    """CUDA devices, or Apple's."""
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        found = ", ".join(f"{device.name} ({device.total_memory / GIB:.0f} GiB)" for device in devices)
        found += f"; used by `torchrun --nproc-per-node {len(devices)} -m allophone pretrain`"
        return Check(name="gpu", status="good", found=found)
    if torch.backends.mps.is_available():
        return Check(name="gpu", status="good", found="Apple GPU (mps)")
    mend = "Not needed for small models; for large ones install the CUDA build of torch (pytorch.org/get-started)."
    return Check(name="gpu", status="warning", found="none that torch can use", mend=mend)


def readable_codecs() -> dict[str, bool]:
    """Which formats libsndfile writes and reads back here, tried in memory."""
    return {name: _round_trip(container, encoding) for name, (container, encoding) in CODECS.items()}


def _round_trip(container: str, encoding: str) -> bool:
    sound = np.sin(np.arange(48_000) / 10).astype(np.float32) / 2
    file = io.BytesIO()
    try:
        soundfile.write(file, sound, 48_000, format=container, subtype=encoding)
        file.seek(0)
        decoded, _ = soundfile.read(file)
    except (soundfile.LibsndfileError, ValueError, TypeError):
        return False
    return abs(len(decoded) - len(sound)) < 4_800


def check_codecs(readable: Mapping[str, bool]) -> Check:
    """Formats of sound files."""
    missing = [name for name, works in readable.items() if not works]
    found = (
        f"{' '.join(name for name, works in readable.items() if works)} (libsndfile {soundfile.__libsndfile_version__})"
    )
    if not missing:
        return Check(name="codecs", status="good", found=found)
    mend = f"No {', '.join(missing)}: pip install --upgrade soundfile (its wheels bring libsndfile 1.2), or use wav."
    return Check(name="codecs", status="bad" if "wav" in missing else "warning", found=found, mend=mend)


def check_pyav() -> Check:
    """PyAV, for formats that libsndfile does not know."""
    if importlib.util.find_spec("av"):
        return Check(name="pyav", status="good", found=f"{importlib.metadata.version('av')}: g722, m4a, amr and others")
    return Check(
        name="pyav",
        status="warning",
        found="missing",
        mend="Only for g722, m4a, amr and others: pip install 'allophone[codecs]'.",
    )


def check_ray(version: str) -> Check:
    """Ray, named only where it is installed."""
    return Check(name="ray", status="good", found=f"{version}: corpus jobs run on a cluster with --engine ray")


def check_disk(folder: Path, free: int) -> Check:
    """Free bytes where the user works."""
    found = f"{free / GIB:.0f} GiB free in {folder.resolve()}"
    if free < MIN_DISK_GIB * GIB:
        return Check(name="disk", status="warning", found=found, mend=f"Keep at least {MIN_DISK_GIB:.0f} GiB for runs.")
    return Check(name="disk", status="good", found=found)


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not tell."""
    table = Path("/proc/meminfo")
    if table.is_file():
        for line in table.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def check_memory(available: int | None) -> Check:
    """Memory."""
    if available is None:
        return Check(
            name="memory", status="warning", found="unknown", mend="This system does not tell; 4 GiB are enough."
        )
    found = f"{available / GIB:.1f} GiB available"
    if available < MIN_MEMORY_GIB * GIB:
        mend = "Close other programs, or train with a smaller `--batch-seconds`."
        return Check(name="memory", status="warning", found=found, mend=mend)
    return Check(name="memory", status="good", found=found)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def constraints_path() -> Path:
    """``constraints.txt`` of a checkout; it need not exist."""
    return Path(__file__).resolve().parents[3] / "constraints.txt"


def pinned_versions(path: Path) -> dict[str, str]:
    """``name==version`` lines of a constraints file; empty when there is none, as in an installed wheel."""
    if not path.is_file():
        return {}
    lines = (line.split("#")[0].split(";")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {normal_name(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}


def installed_versions() -> dict[str, str]:
    """Versions of what is installed, without local parts such as ``+cpu``."""
    return {
        normal_name(distribution.metadata["Name"]): distribution.version.split("+")[0]
        for distribution in importlib.metadata.distributions()
        if distribution.metadata["Name"]
    }


def normal_name(name: str) -> str:
    """A distribution's name as packaging tools compare it."""
    return name.strip().lower().replace("_", "-").replace(".", "-")


def check_versions(pinned: Mapping[str, str], installed: Mapping[str, str]) -> Check:
    """Installed versions against those that the tests pass on."""
    if not pinned:
        return Check(
            name="versions", status="good", found="no constraints.txt here to compare with (installed package)"
        )
    other = [
        f"{name} {installed[name]} (tested: {version})"
        for name, version in sorted(pinned.items())
        if name in installed and installed[name] != version
    ]
    if not other:
        return Check(name="versions", status="good", found=f"all {len(pinned.keys() & installed.keys())} as tested")
    mend = "Most others work too; the tested ones: pip install -c constraints.txt -e ."
    return Check(name="versions", status="warning", found=", ".join(other), mend=mend)


def starter_files() -> dict[str, bool]:
    """Whether the parts of the starter lie in its distribution; empty when that is not installed."""
    spec = importlib.util.find_spec("allophone_starter")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent
    return {
        "corpus": (folder / "corpus/corpus.parquet").is_file(),
        "encoder": (folder / "encoder/config.json").is_file(),
        "teacher": (folder / "teacher/teacher.json").is_file(),
    }


def check_starter(files: Mapping[str, bool]) -> Check:
    """The distribution with the starter corpus and encoder."""
    missing = [name for name, there in files.items() if not there]
    if files and not missing:
        found = f"allophone-starter {importlib.metadata.version('allophone-starter')}: {', '.join(files)}"
        return Check(name="starter", status="good", found=found)
    found = f"allophone-starter without its {' and '.join(missing)}" if files else "no allophone-starter"
    mend = "Needed for `allophone demo` and the encoder 'starter': pip install ./starter (from a checkout)."
    return Check(name="starter", status="warning", found=found, mend=mend)
