"""`sae-moral-vllm`: write an arm as a file for the server, or print what requests need for it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sae_moral_vllm.client import hook_record, request_body
from sae_moral_vllm.hook import served_edits


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="sae-moral-vllm", description=__doc__)
    commands = parser.add_subparsers(required=True)
    made = commands.add_parser("export", help="write an arm as a file for the server")
    made.add_argument("out", type=Path)
    made.add_argument("how", nargs="+", metavar="NAME=VALUE", help="as -M of sae-moral-inspect: operation=DIR alpha=1")
    made.set_defaults(run=_export)
    made = commands.add_parser("body", help="print what Inspect's --generate-config takes")
    made.add_argument("arm", type=Path, nargs="?", help="what export wrote; none for the baseline")
    made.add_argument("--alpha", type=float, help="in place of the exported one")
    made.add_argument("--register", action="store_true", help="print the body for /v1/hooks/register instead")
    made.set_defaults(run=_body)
    given = parser.parse_args(arguments)
    try:
        print(given.run(given))
    except (ValueError, OSError) as error:
        print(f"sae-moral-vllm: {error}", file=sys.stderr)
        return 2
    return 0


def _export(given: argparse.Namespace) -> Path:
    import yaml
    from sae_moral_inspect.configuration import configuration_of, load_operations, steerings_of

    from sae_moral_vllm.export import export

    pairs = [one.partition("=") for one in given.how]
    configuration = configuration_of({name: yaml.safe_load(value) for name, _, value in pairs})
    if configuration.kl is not None:
        raise ValueError("kl= needs the model; give the alpha= that a local run found for it")
    operations = load_operations(configuration, "cpu")
    width = int(operations[0].sae.sae.cfg.d_in) if operations else 0
    return export(steerings_of(configuration, operations, width), given.out)


def _body(given: argparse.Namespace) -> str:
    if given.register and given.arm is None:
        raise ValueError("--register needs an arm; expected what export wrote")
    if given.register:
        return json.dumps({"hooks": [hook_record(edit) for edit in served_edits(given.arm, given.alpha)]})
    return json.dumps({"extra_body": request_body(given.arm, given.alpha)})
