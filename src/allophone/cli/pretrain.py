"""``allophone pretrain``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from allophone.cli.console import ended, follows, remember, say, stages
from allophone.cli.options import add_options, make
from allophone.cli.parser import Parser, Verbs, add_corpus, add_out, add_plan, add_verb, counts
from allophone.cli.places import open_corpus

if TYPE_CHECKING:
    from allophone.data.corpus import Corpus
    from allophone.recipes.denoise import DenoiseConfig
    from allophone.recipes.stages import Balance

DENOISE = "allophone.recipes.denoise:DenoiseConfig"


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "pretrain",
        command,
        summary="Pretrain an encoder by masked prediction: clusters of MFCCs first, then of an encoder's layer.",
        details="Run the same command again to go on after an interruption; what is finished and was made from the\n"
        "same settings, corpus and teacher is not made again. --plan also prints the hours drawn per language.\n"
        "Several GPUs or processes:\n"
        "  torchrun --nproc-per-node 4 --max-restarts 3 -m allophone pretrain --microbatches 8 ...",
        example="allophone pretrain --corpus corpora/all --out runs/pretrain",
    )
    parser.set_defaults(shared=True)
    add_corpus(parser)
    parser.add_argument(
        "--recipe",
        default="starter",
        metavar="NAME",
        help="'starter', 'hubert-base' or 'hubert-small'; the HuBERT ones may end in '-40ms' or '-80ms', or begin "
        "with 'mr-' for two rates at once, and --plan compares their costs (default: starter)",
    )
    parser.add_argument(
        "--iterations",
        type=int,
        metavar="N",
        help="how many iterations; beyond the recipe's, its last one is repeated (default: the recipe's)",
    )
    parser.add_argument(
        "--steps", type=counts, metavar="A,B", help="updates of each iteration and stage (default: the recipe's)"
    )
    _add_balance(parser)
    _add_model(parser)
    parser.add_argument(
        "--unit-layer", type=int, metavar="N", help="layer whose clusters become the encoder's own units"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of everything that is drawn (default: 0)"
    )
    _add_updates(parser)
    add_out(parser, "the run", Path("runs/pretrain"))
    add_plan(parser)
    add_options(parser, DENOISE)


def _add_updates(parser: Parser) -> None:
    parser.add_argument(
        "--microbatches",
        type=int,
        metavar="N",
        help="batches of one update, those of all processes together; fewer are cheaper, and less than was published "
        "(default: the recipe's; hubert-base: 32)",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        metavar="X",
        help="peak of each iteration (default: the recipe's, with --from a fifth of it); a second stage has a fifth",
    )
    parser.add_argument(
        "--parallel",
        choices=("auto", "ddp", "fsdp"),
        default="auto",
        help="several processes hold the model whole (ddp), in shards (fsdp), or in shards where it is large "
        "(default: auto)",
    )


def _add_balance(parser: Parser) -> None:
    group = parser.add_argument_group("languages in balance")
    group.add_argument(
        "--balance",
        choices=("none", "temperature", "upsampling", "two-stage"),
        help="none: as they are; temperature: languages by hours^alpha; upsampling: languages by hours^alpha, then "
        "their sources by hours^beta; two-stage: everything as it is, then on with a balanced subset at a new learning "
        "rate (default: the recipe's exponents)",
    )
    group.add_argument(
        "--alpha", type=float, metavar="X", help="1 = as they are, 0 = all equal (temperature 0.5, upsampling 0.7)"
    )
    group.add_argument("--beta", type=float, metavar="X", help="the same between a language's sources (upsampling 0.9)")
    group.add_argument(
        "--subset-hours",
        type=float,
        metavar="H",
        help="two-stage: hours of each language in the subset (default: as many as the smallest language has)",
    )


def _add_model(parser: Parser) -> None:
    group = parser.add_argument_group("going on from a trained encoder")
    group.add_argument(
        "--from",
        dest="model",
        metavar="MODEL",
        help="'starter', a folder or a hub id in the format of HuBERT, WavLM, wav2vec 2.0, XLS-R or mHuBERT-147; its "
        "optimizer starts anew",
    )
    group.add_argument(
        "--layer",
        type=int,
        metavar="N",
        help="layer of MODEL whose clusters are predicted (default: its codebook's, or the middle)",
    )
    group.add_argument(
        "--units", type=int, metavar="K", help="how many clusters of it (default: as its codebook has, or 500)"
    )


def command(arguments: argparse.Namespace) -> int:
    """Pretrain."""
    from allophone.distributed import process_group
    from allophone.recipes.pretrain import pretrain

    if arguments.plan and follows():
        return 0
    corpus, balance, denoise = open_corpus(arguments.corpus), _balance(arguments), make(DENOISE, arguments)
    if arguments.plan:
        return _plan(arguments, corpus, balance, denoise)
    with remember(arguments), stages() as report, process_group():
        result = pretrain(
            corpus,
            out=arguments.out,
            recipe=arguments.recipe,
            seed=arguments.seed,
            steps=arguments.steps,
            iterations=arguments.iterations,
            balance=balance,
            model=arguments.model,
            layer=arguments.layer,
            num_units=arguments.units,
            unit_layer=arguments.unit_layer,
            denoise=denoise,
            microbatches=arguments.microbatches,
            learning_rate=arguments.learning_rate,
            parallel=arguments.parallel,
            report=report,
            tell=say,
        )
    for line in result.disturbed:
        say(line)
    return ended(result.finished, result.model)


def _balance(arguments: argparse.Namespace) -> Balance | None:
    from allophone.errors import ConfigError
    from allophone.recipes.stages import named_balance

    settings = {"alpha": arguments.alpha, "beta": arguments.beta, "subset_hours": arguments.subset_hours}
    if arguments.balance is None:
        given = [f"--{name.replace('_', '-')}" for name, value in settings.items() if value is not None]
        if given:
            raise ConfigError(
                f"{' and '.join(given)} without --balance. Say which: temperature, upsampling, two-stage."
            )
        return None
    return named_balance(arguments.balance, seed=arguments.seed, **settings)


def _plan(arguments: argparse.Namespace, corpus: Corpus, balance: Balance | None, denoise: DenoiseConfig) -> int:
    from allophone.recipes.denoise import describe, open_sounds, with_denoising
    from allophone.recipes.pretrain import recipe_configs, require_possible, resolutions
    from allophone.run.drawn import drawn_table
    from allophone.run.plan import COMPARED_SECONDS, compare_costs, plan_pretraining
    from allophone.run.starter import open_base
    from allophone.run.targets import usable

    configs = recipe_configs(
        arguments.recipe,
        arguments.seed,
        arguments.steps,
        iterations=arguments.iterations,
        balance=balance,
        base=None if arguments.model is None else open_base(arguments.model)[0],
        layer=arguments.layer,
        num_units=arguments.units,
        microbatches=arguments.microbatches,
        learning_rate=arguments.learning_rate,
    )
    require_possible(configs, corpus, arguments.unit_layer)
    for config in configs:
        say(f"{drawn_table(config, corpus)}\n")
    training, _ = usable(corpus, configs[0].data)
    configs = with_denoising(configs, denoise)
    notes = describe(configs[0], open_sounds(denoise))
    say(str(plan_pretraining(configs, sum(training.hours().values()), notes)))
    compared = compare_costs(resolutions(arguments.recipe, arguments.seed))
    if compared:
        say(f"Frame rates, once through an hour of audio in clips of {COMPARED_SECONDS:g} s:")
    for cost in compared:
        say(str(cost))
    return 0
