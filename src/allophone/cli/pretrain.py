"""``allophone pretrain``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import ended, say, stages
from allophone.cli.options import add_options, make
from allophone.cli.parser import Verbs, add_corpus, add_out, add_plan, add_verb, counts
from allophone.cli.places import open_corpus

DENOISE = "allophone.recipes.denoise:DenoiseConfig"


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "pretrain",
        command,
        summary="Pretrain an encoder by masked prediction: clusters of MFCCs first, then of an encoder's layer.",
        details="Run the same command again to go on after an interruption.",
        example="allophone pretrain --corpus corpora/all --out runs/pretrain",
    )
    add_corpus(parser)
    parser.add_argument(
        "--recipe",
        default="starter",
        metavar="NAME",
        help="'starter', 'hubert-base' or 'hubert-small'; the HuBERT ones may end in '-40ms' or '-80ms', or begin "
        "with 'mr-' for two rates at once, and --plan compares their costs (default: starter)",
    )
    parser.add_argument("--steps", type=counts, metavar="A,B", help="updates of each iteration (default: the recipe's)")
    parser.add_argument(
        "--unit-layer", type=int, metavar="N", help="layer whose clusters become the encoder's own units"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of everything that is drawn (default: 0)"
    )
    add_out(parser, "the run", Path("runs/pretrain"))
    add_plan(parser)
    add_options(parser, DENOISE)


def command(arguments: argparse.Namespace) -> int:
    """Pretrain."""
    from allophone.recipes.pretrain import pretrain, recipe_configs, resolutions

    denoise = make(DENOISE, arguments)
    corpus = open_corpus(arguments.corpus)
    if arguments.plan:
        from allophone.recipes.denoise import describe, open_sounds, with_denoising
        from allophone.run.execute import usable
        from allophone.run.plan import COMPARED_SECONDS, compare_costs, plan_pretraining

        configs = with_denoising(recipe_configs(arguments.recipe, arguments.seed, arguments.steps), denoise)
        training, _ = usable(corpus, configs[0].data)
        notes = describe(configs[0], open_sounds(denoise))
        say(str(plan_pretraining(configs, sum(training.hours().values()), notes)))
        compared = compare_costs(resolutions(arguments.recipe, arguments.seed))
        if compared:
            say(f"Frame rates, once through an hour of audio in clips of {COMPARED_SECONDS:g} s:")
        for cost in compared:
            say(str(cost))
        return 0
    with stages() as report:
        result = pretrain(
            corpus,
            out=arguments.out,
            recipe=arguments.recipe,
            seed=arguments.seed,
            steps=arguments.steps,
            unit_layer=arguments.unit_layer,
            denoise=denoise,
            report=report,
        )
    for line in result.disturbed:
        say(line)
    return ended(result.finished, result.model)
