"""`sae-moral train-sae`, `saes`, `latents`, `compare-saes`: SAEs of a model on moral scenarios."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from sae_moral._cli_arguments import (
    add_controls,
    add_layers,
    add_running,
    add_scenarios,
    folder,
    names,
    quiet_loading,
    scenarios,
)


def add_saes(commands: argparse._SubParsersAction) -> None:
    """Add the commands to the parser of `sae-moral`."""
    _add_train(commands)
    saes = commands.add_parser(
        "saes",
        help="list the community SAEs of a model",
        description="List the residual-stream SAEs that SAELens knows for a model; nothing is downloaded.",
    )
    saes.add_argument("model", metavar="MODEL", help="any name of the model, e.g. Qwen/Qwen3-8B")
    saes.add_argument("--ids", action="store_true", help="list every SAE of every release")
    saes.set_defaults(run=_saes)
    latents = commands.add_parser(
        "latents",
        help="find the moral latents of SAEs",
        description="Find the latents that carry a moral dimension, on one part of the texts, and measure them on "
        "another; writes moral_latents.json and .safetensors per layer, and latents.html.",
    )
    latents.set_defaults(run=_latents)
    add_scenarios(latents)
    latents.add_argument("--sae", required=True, metavar="SAE", help="a folder (of one or of several), or release/id")
    add_running(latents, out="latents-MODEL-SOURCE")
    compare = commands.add_parser(
        "compare-saes",
        help="measure SAEs of one model beside the stream they encode",
        description="Diagnose the latents of each SAE and the residual stream it encodes on the same scenarios; writes "
        "saes.json, saes.md and a diagnosis per SAE. Run again, it goes on where it ended.",
    )
    compare.set_defaults(run=_compare)
    add_scenarios(compare)
    compare.add_argument("--saes", required=True, nargs="+", metavar="SAE", help="folders, or release/id")
    add_controls(compare)
    add_running(compare, out="saes-MODEL-SOURCE-compared")


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train-sae",
        help="train sparse autoencoders of a model on moral scenarios",
        description="Train one SAE per layer with SAELens' own trainer, from one pass of the model; writes a SAELens "
        "folder per layer and training.json. Run again after a crash, it goes on where it was.",
    )
    parser.set_defaults(run=_train_sae)
    add_scenarios(parser)
    add_layers(parser)
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
    parser.add_argument("--store", type=Path, metavar="DIR", help="folder for the vectors (default: OUT/activations)")
    add_running(parser, out="saes-MODEL-SOURCE")


def _train_sae(arguments: argparse.Namespace) -> int:
    from sae_moral.errors import SaeMoralWarning
    from sae_moral.sae.train import train_saes
    from sae_moral.sae.train_config import TrainSettings

    quiet_loading()
    options = ("architecture", "expansion", "target_l0", "granularity", "protocol", "steps", "batch", "lr", "normalise")
    given = {
        name: value
        for name in (*options, "init", "seed", "checkpoints")
        if (value := getattr(arguments, name)) is not None
    }
    out = folder(arguments, "saes")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SaeMoralWarning)
        trained = train_saes(
            arguments.model,
            scenarios(arguments),
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


def _saes(arguments: argparse.Namespace) -> int:
    """Exit status 1 when there are none."""
    from sae_moral.sae import community_saes

    found = community_saes(arguments.model)
    for release in found:
        about = "" if release.same_variant else f", trained on the {'chat' if release.chat else 'base'} model"
        print(f"{release.release}  ({len(release.ids)} SAEs of {release.model}{about})")
        for name in release.ids if arguments.ids else release.ids[:1]:
            print(f"  {release.release}/{name}")
    if not found:
        print(f"SAELens lists no residual-stream SAE for {arguments.model}", file=sys.stderr)
    return 0 if found else 1


def _latents(arguments: argparse.Namespace) -> int:
    from sae_moral import load_model
    from sae_moral.studies import latents_with_page

    quiet_loading()
    data, out = scenarios(arguments), folder(arguments, "latents")
    data = data if arguments.limit is None else data.sample(arguments.limit)
    model = load_model(arguments.model, dtype=arguments.dtype, device=arguments.device)
    found, page = latents_with_page(model, arguments.sae, data, out)
    for layer, one in found.items():
        moral = len(one.latents())
        print(f"layer {layer}: {moral} moral latents of {len(one)} ({moral / len(one):.2%})")
    print(f"\n{page}")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from sae_moral import load_model
    from sae_moral.studies import compare_saes

    quiet_loading()
    data, out = scenarios(arguments), folder(arguments, "saes", "compared")
    compared = compare_saes(
        load_model(arguments.model, dtype=arguments.dtype, device=arguments.device),
        arguments.saes,
        data if arguments.limit is None else data.sample(arguments.limit),
        out,
        protocol=arguments.protocol,
        metrics=names(arguments.metrics),
        controls=arguments.controls,
    )
    print(compared.summary())
    print(f"\n{out / 'saes.json'}\n{out / 'saes.md'}")
    return 0
