"""`sae-moral train-sae`: SAEs of a model on moral scenarios."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path


def add_train_sae(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser of `sae-moral`."""
    parser = commands.add_parser(
        "train-sae",
        help="train sparse autoencoders of a model on moral scenarios",
        description="Train one SAE per layer with SAELens' own trainer, from one pass of the model; writes a SAELens "
        "folder per layer and training.json. Run again after a crash, it goes on where it was.",
    )
    parser.set_defaults(run=_train_sae)
    parser.add_argument(
        "model", metavar="MODEL", help="a bundled model (see: sae-moral models), a folder, or a hub name"
    )
    parser.add_argument(
        "--data",
        default="moralstrength",
        metavar="SOURCE",
        help="a source (see: sae-moral data) or a table (default: %(default)s)",
    )
    parser.add_argument("--path", type=Path, metavar="FILE", help="where the file of a named SOURCE is")
    parser.add_argument("--layers", default="all", help="all (default), 3, 0,5,9 or 0:30:5")
    parser.add_argument(
        "--architecture", metavar="NAME", help="standard, topk, batchtopk, jumprelu, … as SAELens calls them"
    )
    parser.add_argument("--expansion", type=int, metavar="N", help="latents per dimension")
    parser.add_argument("--target-l0", type=float, metavar="L0", help="active latents per vector")
    parser.add_argument(
        "--granularity", choices=["scenario", "token"], help="a vector per scenario, or per token of it"
    )
    parser.add_argument("--protocol", help="audited or paper: template, BOS and pooling")
    parser.add_argument("--steps", type=int, metavar="N", help="optimiser steps (default: six epochs, at least 400)")
    parser.add_argument("--batch", type=int, metavar="N", help="vectors per step")
    parser.add_argument("--lr", type=float, help="learning rate")
    parser.add_argument("--normalise", metavar="HOW", help="scale, standardise, centre or none")
    parser.add_argument("--init", metavar="HOW", help="decoder rows begin as data or random")
    parser.add_argument("--seed", type=int, metavar="N", help="of the weights and the order of the data")
    parser.add_argument("--checkpoints", type=int, metavar="N", help="how often the state is saved on the way")
    parser.add_argument("--limit", type=int, metavar="N", help="use at most N scenarios")
    parser.add_argument("--store", type=Path, metavar="DIR", help="folder for the vectors (default: OUT/activations)")
    parser.add_argument("--dtype", default="float32", help="of the model: float32 (default), bfloat16 or float16")
    parser.add_argument("--device", help="cpu, cuda, … (default: cuda when there is one)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the SAEs (default: saes-MODEL-SOURCE)")


def _train_sae(arguments: argparse.Namespace) -> int:
    from sae_moral import load_data
    from sae_moral._errors import SaeMoralWarning
    from sae_moral.cli import _quiet_loading
    from sae_moral.sae.train import train_saes
    from sae_moral.sae.train_config import TrainSettings

    _quiet_loading()
    names = ("architecture", "expansion", "target_l0", "granularity", "protocol", "steps", "batch", "lr", "normalise")
    given = {
        name: value
        for name in (*names, "init", "seed", "checkpoints")
        if (value := getattr(arguments, name)) is not None
    }
    out = arguments.out or Path("-".join(["saes", Path(arguments.model).stem, Path(arguments.data).stem]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SaeMoralWarning)
        trained = train_saes(
            arguments.model,
            load_data(arguments.data, path=arguments.path),
            arguments.layers,
            TrainSettings(**given),
            out=out,
            store=arguments.store,
            limit=arguments.limit,
            dtype=arguments.dtype,
            device=arguments.device,
        )
    print(trained.summary())
    for warning in caught:
        if issubclass(warning.category, SaeMoralWarning):
            print(f"sae-moral: {warning.message}", file=sys.stderr)
    print(f"\n{out / 'training.json'}")
    return 0
