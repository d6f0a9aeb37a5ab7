"""`sae-moral atlas`: many models, one report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sae_moral._cli_arguments import quiet_loading


def add_atlas(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser of `sae-moral`."""
    parser = commands.add_parser(
        "atlas",
        help="measure many models and compare the variants of each",
        description="Measure the models of a YAML file one after another and compare the variants of each family; "
        "writes atlas.json, atlas.html and a diagnosis per model and protocol. Run again, it goes on where it ended. "
        "Exit status 1 when a model could not be loaded or measured.",
    )
    parser.set_defaults(run=_atlas)
    parser.add_argument(
        "models", type=Path, metavar="MODELS.yaml", help="which models, measured how (see docs/atlas.md)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default: atlas-MODELS)")
    parser.add_argument("--device", help="cpu, cuda, … (default: cuda when there is one)")
    parser.add_argument(
        "--store-delete-after", action="store_true", help="delete the captured vectors once they have been compared"
    )
    parser.add_argument("--overwrite", action="store_true", help="write to a folder that holds something else")


def _atlas(arguments: argparse.Namespace) -> int:
    from sae_moral.studies import atlas

    quiet_loading()
    out = arguments.out or Path(f"atlas-{arguments.models.stem}")
    options = {"delete_stores": arguments.store_delete_after, "overwrite": arguments.overwrite}
    found = atlas(arguments.models, out, device=arguments.device, **options)
    print(found.summary())
    for name, error in found.failures.items():
        print(f"sae-moral: {name} {error}", file=sys.stderr)
    print(f"\n{out / 'atlas.json'}\n{out / 'atlas.html'}")
    return 1 if found.failures else 0
