"""`sae-moral operate`: polarity and prototype surgery on the moral latents of an SAE."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sae_moral._cli_arguments import add_running, add_scenarios, folder, quiet_loading, scenarios

if TYPE_CHECKING:
    from sae_moral.data import MoralData
    from sae_moral.data.splits import Split


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
    add_shares(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the batches and the control")
    parser.add_argument("--store", type=Path, metavar="DIR", help="keep captured vectors here: later runs reuse them")
    parser.add_argument("--any-model", action="store_true", help="accept an SAE of a model with another name")
    add_running(parser, out="operation-MODEL-SOURCE[-CONTROL]")


def _operate(arguments: argparse.Namespace) -> int:
    from sae_moral import load_model
    from sae_moral.sae import MoralLatents, load_sae
    from sae_moral.surgery import operate, summary

    quiet_loading()
    data = scenarios(arguments)
    data = data if arguments.limit is None else data.sample(arguments.limit)
    split = parts(data, arguments.shares)
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


def add_shares(parser: argparse.ArgumentParser) -> None:
    """Add `--shares`."""
    parser.add_argument(
        "--shares", default="0.8,0.1,0.1", help="of train, validation and test scenarios (default: %(default)s)"
    )


def parts(data: MoralData, shares: str) -> Split:
    """The split with these shares.

    Raises:
        ValueError: anything but three numbers.
    """
    from sae_moral.data.splits import group_split

    try:
        train, validation, test = (float(share) for share in shares.split(","))
    except ValueError:
        raise ValueError(f"--shares {shares}; expected three numbers, e.g. 0.6,0.15,0.25") from None
    return group_split(data, shares=(train, validation, test))
