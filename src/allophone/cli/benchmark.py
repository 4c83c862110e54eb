"""``allophone benchmark``."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allophone.cli.console import progress, say
from allophone.cli.parser import Parser, Verbs, add_group, add_verb

if TYPE_CHECKING:
    from allophone.benchmarks.timing import Timing

ENVIRONMENTS = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "allophone" / "peers"
TRAINERS = ("fairseq", "torchaudio", "s3prl")
DTYPES = ("float32", "bfloat16")


def add(verbs: Verbs) -> None:
    """Add the verb and its names."""
    names = add_group(
        verbs, "benchmark", summary="Time us beside named peers, measure the index, or prove that a killed run resumes."
    )
    _add_encode(names)
    _add_pretrain_step(names)
    _add_kmeans(names)
    _add_probe(names)
    _add_units_scale(names)
    mfcc = _add_timed(names, "mfcc", _mfcc, "MFCC-39 from audio in memory, against kaldi-native-fbank and librosa.")
    mfcc.add_argument("--seconds", type=float, default=600.0, metavar="S", help="audio in all (default: 600)")
    loader = _add_timed(names, "loader", _loader, "Disk to batches, against a plain torch DataLoader.")
    loader.add_argument("--seconds", type=float, default=1800.0, metavar="S", help="audio of an epoch (default: 1800)")
    index = add_verb(
        names,
        "index",
        _index,
        summary="Measure the vector index: how fast it is built and asked, how exact, how large.",
        example="allophone benchmark index --json",
    )
    index.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="vectors (default: 1000000)")
    index.add_argument("--json", action="store_true", help="print one JSON object")
    probing = add_verb(
        names,
        "probing",
        _probing,
        summary="Both probes and the geometry of 10 hours of speech, once they are embeddings.",
        example="allophone benchmark probing --json",
    )
    probing.add_argument("--rows", type=int, default=9_000, metavar="N", help="embeddings (default: 9000)")
    probing.add_argument("--json", action="store_true", help="print one JSON object")
    vocoder = _add_timed(names, "vocoder", _vocoder, "Units to speech at published size, against transformers.")
    vocoder.add_argument("--threads", type=int, default=1, metavar="N", help="of torch (default: 1)")
    _add_timed(names, "ragged", _ragged, "A batch of noise of 0.5 to 15 s, against padded transformers.")
    resume = add_verb(
        names,
        "resume",
        _resume,
        summary="Kill runs at random steps, resume them, and compare weights bit for bit.",
        example="allophone benchmark resume --json",
    )
    resume.add_argument("--repeats", type=int, default=20, metavar="N", help="kills (default: 20)")
    resume.add_argument("--json", action="store_true", help="print one JSON object")


def _add_timed(names: Verbs, name: str, command: Any, summary: str, details: str = "") -> Parser:
    parser = add_verb(
        names, name, command, summary=summary, details=details, example=f"allophone benchmark {name} --json"
    )
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed pairs (default: 5)")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine shared with others (default: wall)"
    )
    parser.add_argument("--quick", action="store_true", help="sizes that only try the program out")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _add_encode(names: Verbs) -> None:
    parser = _add_timed(names, "encode", _encode, "Ragged clips of real speech through an encoder, random weights.")
    parser.add_argument("--model", default="hubert-base", metavar="NAME", help="or wavlm-base (default: hubert-base)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default: float32")
    parser.add_argument("--seconds", type=float, default=600.0, metavar="S", help="audio in all (default: 600)")
    parser.add_argument("--device", default="cpu", help="default: cpu")


def _add_pretrain_step(names: Verbs) -> None:
    parser = _add_timed(
        names,
        "pretrain-step",
        _pretrain_step,
        "One HuBERT Base step (forward, backward, optimizer), peak memory, and the share of this machine's rate.",
        "Peers run in environments of their own, which are made with pip where they are missing.",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default: float32")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="audio of a batch (default: 60)")
    parser.add_argument("--layers", type=int, default=12, metavar="N", help="of the transformer (default: 12)")
    parser.add_argument(
        "--peers", default=",".join(TRAINERS), metavar="NAMES", help=f"trainers (default: {','.join(TRAINERS)})"
    )
    parser.add_argument(
        "--environments", type=Path, default=ENVIRONMENTS, metavar="FOLDER", help=f"default: {ENVIRONMENTS}"
    )


def _add_kmeans(names: Verbs) -> None:
    parser = _add_timed(names, "kmeans", _kmeans, "k-means in memory, against scikit-learn and faiss.")
    parser.add_argument("--frames", type=int, default=200_000, metavar="N", help="default: 200000")
    parser.add_argument("--dim", type=int, default=768, metavar="D", help="default: 768")
    parser.add_argument("--clusters", type=int, default=500, metavar="K", help="default: 500")


def _add_probe(names: Verbs) -> None:
    parser = _add_timed(
        names,
        "probe",
        _probe,
        "ML-SUPERB's probe on hidden states kept in memory, against running the encoder in every epoch.",
    )
    parser.add_argument("--model", default="hubert-base", metavar="NAME", help="or wavlm-base (default: hubert-base)")
    parser.add_argument("--head", choices=("fast", "published"), default="fast", help="its size (default: fast)")
    parser.add_argument("--clips", type=int, default=16, metavar="N", help="to train on (default: 16)")
    parser.add_argument("--epochs", type=int, default=30, metavar="N", help="default: 30, as published")


def _add_units_scale(names: Verbs) -> None:
    parser = add_verb(
        names,
        "units-scale",
        _units_scale,
        summary="Recordings to units for some hours of audio and for four times as many: time and peak memory.",
        example="allophone benchmark units-scale --hours 10 --json",
    )
    parser.add_argument("--hours", type=float, default=1.0, metavar="H", help="the smaller amount (default: 1)")
    parser.add_argument("--times", type=int, default=4, metavar="N", help="the larger over the smaller (default: 4)")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine shared with others (default: wall)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _timing(arguments: argparse.Namespace) -> Timing:
    from allophone.benchmarks.timing import Timing

    return Timing(pairs=arguments.repeats, clock=arguments.clock, quick=arguments.quick)


def _tell(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    if arguments.json:
        say(json.dumps(result))
    else:
        for name, value in result.items():
            say(f"{name:<14} {value}")


def _units_scale(arguments: argparse.Namespace) -> None:
    from allophone.benchmarks import units_scale

    with progress("units-scale") as report:
        result = units_scale.run(hours=arguments.hours, times=arguments.times, clock=arguments.clock, progress=report)
    _tell(arguments, result)


def _encode(arguments: argparse.Namespace) -> None:
    from allophone.benchmarks import encode

    timing, label = _timing(arguments), f"encode {arguments.model} {arguments.dtype}"
    with progress(label) as report:
        result = encode.run(
            model=arguments.model,
            dtype=arguments.dtype,
            seconds=arguments.seconds,
            device=arguments.device,
            timing=timing,
            progress=report,
        )
    _tell(arguments, result)


def _pretrain_step(arguments: argparse.Namespace) -> None:
    from allophone.benchmarks import pretrain_step

    peers, timing = tuple(name for name in arguments.peers.split(",") if name), _timing(arguments)
    with progress(f"pretrain-step {arguments.dtype}") as report:
        result = pretrain_step.run(
            dtype=arguments.dtype,
            seconds=arguments.seconds,
            layers=arguments.layers,
            environments=arguments.environments,
            peers=peers,
            timing=timing,
            progress=report,
        )
    _tell(arguments, result)


def _vocoder(arguments: argparse.Namespace) -> None:
    from allophone.benchmarks import vocoder

    with progress("vocoder") as report:
        result = vocoder.run(threads=arguments.threads, timing=_timing(arguments), progress=report)
    _tell(arguments, result)


def _kmeans(arguments: argparse.Namespace) -> None:
    from allophone.benchmarks import kmeans

    timing = _timing(arguments)
    with progress("kmeans") as report:
        result = kmeans.run(
            frames=arguments.frames, dim=arguments.dim, clusters=arguments.clusters, timing=timing, progress=report
        )
    _tell(arguments, result)


def _probe(arguments: argparse.Namespace) -> None:
    from allophone.benchmarks import probe

    timing = _timing(arguments)
    with progress("probe") as report:
        result = probe.run(
            model=arguments.model,
            head=arguments.head,
            clips=arguments.clips,
            epochs=arguments.epochs,
            timing=timing,
            progress=report,
        )
    _tell(arguments, result)


def _mfcc(arguments: argparse.Namespace) -> None:
    from allophone.benchmarks import mfcc

    timing = _timing(arguments)
    with progress("mfcc") as report:
        result = mfcc.run(seconds=arguments.seconds, timing=timing, progress=report)
    _tell(arguments, result)


def _loader(arguments: argparse.Namespace) -> None:
    from allophone.benchmarks import loader

    timing = _timing(arguments)
    with progress("loader") as report:
        result = loader.run(seconds=arguments.seconds, timing=timing, progress=report)
    _tell(arguments, result)


def _ragged(arguments: argparse.Namespace) -> None:
    from allophone.benchmarks import ragged

    timing = _timing(arguments)
    with progress("ragged") as report:
        result = ragged.run(pairs=timing.pairs, clock=timing.now(), progress=report)
    _tell(arguments, result)


def _index(arguments: argparse.Namespace) -> None:
    from allophone.benchmarks.vectors import measure_index

    with progress("index") as report, tempfile.TemporaryDirectory() as folder:
        result = measure_index(Path(folder), rows=arguments.rows, progress=report)
    _tell(arguments, result)


def _probing(arguments: argparse.Namespace) -> None:
    from allophone.benchmarks.probing import measure_probing

    with progress("probing") as report:
        result = measure_probing(rows=arguments.rows, progress=report)
    _tell(arguments, result)


def _resume(arguments: argparse.Namespace) -> None:
    from allophone.benchmarks.resume import prove_resume
    from allophone.config import to_dict

    with progress("resume") as report, tempfile.TemporaryDirectory() as folder:
        proof = prove_resume(Path(folder), kills=arguments.repeats, progress=report)
    _tell(arguments, {"name": "resume"} | to_dict(proof))
