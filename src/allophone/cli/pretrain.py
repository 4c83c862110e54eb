"""``allophone pretrain``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import ended, follows, say, stages
from allophone.cli.parser import Verbs, add_corpus, add_out, add_plan, add_verb, counts
from allophone.cli.places import open_corpus


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "pretrain",
        command,
        summary="Pretrain an encoder by masked prediction: clusters of MFCCs first, then of an encoder's layer.",
        details="Run the same command again to go on after an interruption. Several GPUs or processes:\n"
        "  torchrun --nproc-per-node 4 --max-restarts 3 -m allophone pretrain --microbatches 8 ...",
        example="allophone pretrain --corpus corpora/all --out runs/pretrain",
    )
    parser.set_defaults(shared=True)
    add_corpus(parser)
    parser.add_argument(
        "--recipe", default="starter", metavar="NAME", help="'starter' or 'hubert-base' (default: starter)"
    )
    parser.add_argument("--steps", type=counts, metavar="A,B", help="updates of each iteration (default: the recipe's)")
    parser.add_argument(
        "--unit-layer", type=int, metavar="N", help="layer whose clusters become the encoder's own units"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of everything that is drawn (default: 0)"
    )
    parser.add_argument(
        "--microbatches",
        type=int,
        metavar="N",
        help="batches of one update, those of all processes together (default: the recipe's)",
    )
    parser.add_argument(
        "--parallel",
        choices=("auto", "ddp", "fsdp"),
        default="auto",
        help="several processes hold the model whole (ddp), in shards (fsdp), or in shards where it is large "
        "(default: auto)",
    )
    add_out(parser, "the run", Path("runs/pretrain"))
    add_plan(parser)


def command(arguments: argparse.Namespace) -> int:
    """Pretrain."""
    from allophone.distributed import process_group
    from allophone.recipes.pretrain import pretrain, recipe_configs

    if arguments.plan and follows():
        return 0
    corpus = open_corpus(arguments.corpus)
    if arguments.plan:
        from allophone.run.execute import usable
        from allophone.run.plan import plan_pretraining

        configs = recipe_configs(arguments.recipe, arguments.seed, arguments.steps, microbatches=arguments.microbatches)
        training, _ = usable(corpus, configs[0].data)
        say(str(plan_pretraining(configs, sum(training.hours().values()))))
        return 0
    with stages() as report, process_group():
        result = pretrain(
            corpus,
            out=arguments.out,
            recipe=arguments.recipe,
            seed=arguments.seed,
            steps=arguments.steps,
            unit_layer=arguments.unit_layer,
            microbatches=arguments.microbatches,
            parallel=arguments.parallel,
            report=report,
        )
    return ended(result.finished, result.model)
