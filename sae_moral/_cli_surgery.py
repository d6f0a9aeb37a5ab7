"""`sae-moral operate`: polarity and prototype surgery on the moral latents of an SAE."""

from __future__ import annotations

import argparse
from pathlib import Path

from sae_moral._cli_arguments import add_running, add_scenarios, folder, quiet_loading, scenarios


def add_surgery(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser of `sae-moral`."""
    parser = commands.add_parser(
        "operate",
        help="train the moral latents of an SAE on polarity and typicality",
        description="Train the moral latents of one SAE, everything else frozen; writes an ordinary SAELens folder "
        "with surgery.json and before.safetensors, and prints what changed on scenarios that took no part.",
    )
    parser.set_defaults(run=_operate)
    add_scenarios(parser)
    parser.add_argument("sae", metavar="SAE", help="a folder, or release/id")
    parser.add_argument("--latents", type=Path, metavar="DIR", help="moral latents found before (default: find them)")
    parser.add_argument("--control", default="none", help="none (default), shuffled, random or no-surgery")
    parser.add_argument("--settings", default="default", help="default or paper")
    parser.add_argument("--granularity", choices=["scenario", "token"], help="default: what the SAE was trained on")
    parser.add_argument(
        "--shares", default="0.8,0.1,0.1", help="of train, validation and test scenarios (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the batches and the control")
    parser.add_argument("--store", type=Path, metavar="DIR", help="keep captured vectors here: later runs reuse them")
    parser.add_argument("--any-model", action="store_true", help="accept an SAE of a model with another name")
    add_running(parser, out="operation-MODEL-SOURCE[-CONTROL]")


def _operate(arguments: argparse.Namespace) -> int:
    from sae_moral import load_model
    from sae_moral.data.splits import group_split
    from sae_moral.sae import MoralLatents, load_sae
    from sae_moral.surgery import operate, summary

    quiet_loading()
    data = scenarios(arguments)
    data = data if arguments.limit is None else data.sample(arguments.limit)
    try:
        train, validation, test = (float(share) for share in arguments.shares.split(","))
    except ValueError:
        raise ValueError(f"--shares {arguments.shares}; expected three numbers, e.g. 0.6,0.15,0.25") from None
    split = group_split(data, shares=(train, validation, test))
    latents = MoralLatents.load(arguments.latents) if arguments.latents else None
    model = load_model(arguments.model, dtype=arguments.dtype, device=arguments.device)
    operation = operate(
        load_sae(arguments.sae, model=model, any_model=arguments.any_model),
        latents,
        model,
        data,
        settings=arguments.settings,
        control=arguments.control,
        seed=arguments.seed,
        split=split,
        granularity=arguments.granularity,
        store=arguments.store,
    )
    more = () if arguments.control == "none" else (arguments.control,)
    out = operation.save(folder(arguments, "operation", *more))
    print(f"{summary(operation)}\n\n{out}")
    return 0
