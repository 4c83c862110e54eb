"""``allophone units fit|encode|report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import progress, remember, say, wrote
from allophone.cli.parser import ON_CPU, Parser, Verbs, add_corpus, add_engine, add_group, add_out, add_verb
from allophone.cli.places import model_folder, open_corpus


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    group = add_group(verbs, "units", summary="Discrete units: fit a codebook, encode a corpus, judge the units.")
    _add_fit(group)
    _add_encode(group)
    _add_report(group)


def _add_model(parser: Parser) -> None:
    parser.add_argument(
        "--model", metavar="MODEL", help="encoder: 'starter', a folder or a hub id (default: none, MFCCs are clustered)"
    )
    parser.add_argument(
        "--layer", type=int, metavar="N", help="layer of the encoder; 0 = input of layer 1 (default: the middle one)"
    )


def _add_fit(group: Verbs) -> None:
    parser = add_verb(
        group,
        "fit",
        run_fit,
        summary="Cluster the frames of a corpus: MFCCs, or a layer of an encoder.",
        details=ON_CPU,
        example="allophone units fit --corpus corpora/all --model starter --layer 4 --num-units 200 --out codebook",
    )
    add_corpus(parser)
    _add_model(parser)
    parser.add_argument("--num-units", type=int, default=100, metavar="N", help="clusters (default: 100)")
    parser.add_argument(
        "--normalization",
        choices=("none", "voice"),
        default="none",
        help="voice: standardize the frames of each speaker, so that units say less about who speaks (default: none)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the clustering (default: 0)")
    add_engine(parser)
    add_out(parser, "the codebook")


def run_fit(arguments: argparse.Namespace) -> None:
    """Fit a codebook."""
    from allophone.engine import open_engine
    from allophone.run.used import record_use
    from allophone.units.fit import fit

    model = arguments.model and model_folder(arguments.model)
    corpus = open_corpus(arguments.corpus)
    with open_engine(arguments.engine, arguments.address) as engine, progress("fit") as report:
        codebook = fit(
            corpus,
            model=model,
            layer=arguments.layer,
            num_units=arguments.num_units,
            seed=arguments.seed,
            normalization=arguments.normalization,
            engine=engine,
            progress=report,
        )
    with remember(arguments):
        codebook.save(arguments.out)
        record_use(arguments.out, {"clustered": [row for row in corpus if row.split not in ("dev", "test")]})
    wrote(arguments.out)


def _add_encode(group: Verbs) -> None:
    parser = add_verb(
        group,
        "encode",
        run_encode,
        summary="Write the units of every utterance of a corpus.",
        details=ON_CPU,
        example="allophone units encode --corpus corpora/all --model starter --codebook codebook --out units.parquet",
    )
    add_corpus(parser)
    parser.add_argument("--model", metavar="MODEL", help="encoder that the codebook was fitted on (none for MFCCs)")
    parser.add_argument("--codebook", type=Path, required=True, metavar="FOLDER", help="what `units fit` wrote")
    add_engine(parser)
    add_out(parser, "the units")


def run_encode(arguments: argparse.Namespace) -> None:
    """Encode a corpus."""
    from allophone.engine import open_engine
    from allophone.units.encode import encode

    model = arguments.model and model_folder(arguments.model)
    corpus = open_corpus(arguments.corpus)
    with open_engine(arguments.engine, arguments.address) as engine, progress("encode") as report:
        encode(corpus, arguments.codebook, model=model, out=arguments.out, engine=engine, progress=report)
    wrote(arguments.out)


def _add_report(group: Verbs) -> None:
    parser = add_verb(
        group,
        "report",
        run_report,
        summary="Usage and entropy of units; PNMI and purity against phones where there are labels; beside chance.",
        example="allophone units report units.parquet --phones phones.tsv",
    )
    parser.add_argument("units", type=Path, metavar="UNITS", help="what `units encode` wrote")
    parser.add_argument(
        "--phones",
        type=Path,
        metavar="FILE",
        help="UTF-8 text with a header and the tab-separated columns id, start_seconds, end_seconds, phone; or the "
        "phones.parquet that lies beside a corpus",
    )


def run_report(arguments: argparse.Namespace) -> None:
    """Judge units."""
    from allophone.units.report import report

    say(str(report(arguments.units, phones=arguments.phones)))
