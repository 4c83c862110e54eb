"""``allophone claims list|run``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from allophone.cli.console import STOPPED, say, stages, wrote
from allophone.cli.options import add_options, make
from allophone.cli.parser import ON_CPU, Verbs, add_group, add_verb, counts

EFFORT = "allophone.recipes.claims.trial:Effort"


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    group = add_group(verbs, "claims", summary="Papers' claims as experiments on the starter corpus.")
    add_verb(
        group,
        "list",
        list_claims,
        summary="Say which claims can be run, and what each trains.",
        example="allophone claims list",
    )
    parser = add_verb(
        group,
        "run",
        run,
        summary="Train what a claim compares, score it on held-out content, and give the verdict as it falls.",
        details=f"Run the same command again to go on after an interruption.\n{ON_CPU}",
        example="allophone claims run denoising --json",
    )
    parser.add_argument("name", metavar="NAME", help="as `allophone claims list` gives it")
    parser.add_argument("--out", type=Path, metavar="PATH", help="its folder (default: runs/claims/NAME)")
    parser.add_argument("--seeds", type=counts, default=(0, 1, 2), metavar="A,B,...", help="seeds (default: 0,1,2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--plan", action="store_true", help="say what would be trained and how long; then stop")
    add_options(parser, EFFORT)


def list_claims(arguments: argparse.Namespace) -> None:
    """List them."""
    from allophone.recipes.claims.all import CLAIMS

    for claim in CLAIMS:
        say(f"{claim.name}: {len(claim.arms)} arms of about {claim.steps:,} updates a seed. {claim.paper}")
        say(f"    {claim.says}")


def run(arguments: argparse.Namespace) -> int:
    """Run one."""
    from allophone.recipes.claims.all import find_claim
    from allophone.recipes.claims.trial import run_claim

    claim, effort = find_claim(arguments.name), make(EFFORT, arguments)
    if arguments.plan:
        return _plan(arguments.name, arguments)
    out = arguments.out or Path("runs/claims") / claim.name
    with stages() as report:
        outcome = run_claim(claim, out, seeds=arguments.seeds, effort=effort, report=report)
    if outcome is None:
        say("stopped and saved; run the same command again to go on")
        return STOPPED
    if arguments.json:
        say(json.dumps(outcome.to_json()))
        return 0
    for one in outcome.effects:
        verdict = {True: "better", False: "worse", None: "not decided"}[one.holds]
        say(f"{one.contrast.name:<60} {one}, {verdict}")
    wrote(outcome.report)
    return 0


def _plan(name: str, arguments: argparse.Namespace) -> int:
    from allophone.recipes.claims.all import find_claim
    from allophone.run.duration import duration
    from allophone.run.plan import plan_pretraining
    from allophone.run.starter import starter_corpus

    claim, effort = find_claim(name), make(EFFORT, arguments)
    steps = effort.steps or claim.steps
    if claim.like is None:
        runs = len(claim.arms) * len(arguments.seeds)
        say(f"{runs} trainings (arms times seeds) of {steps} updates each.")
        return 0
    plan = plan_pretraining(claim.like(0, steps), sum(starter_corpus().where(split="train").hours().values()))
    trainings = len(claim.arms) * len(arguments.seeds)
    say(f"One of {trainings} trainings (an arm of {name} with a seed):\n{plan}")
    say(f"All {trainings}: about {duration(trainings * plan.seconds)}, and a linear probe of each.")
    return 0
