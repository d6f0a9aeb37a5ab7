"""`sae-moral-vllm`: export an arm, print what requests to the server need for it, or ask it the questions of Flames."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sae_moral_vllm.hook import hook_record, request_body, served_edits


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0 done, 2 bad input, 3 not all was answered or steered."""
    parser = argparse.ArgumentParser(prog="sae-moral-vllm", description=__doc__)
    commands = parser.add_subparsers(required=True)
    made = commands.add_parser("export", help="write an arm as a file for the server")
    made.add_argument("out", type=Path)
    made.add_argument(
        "how", nargs="+", metavar="NAME=VALUE", help="as -M of sae-moral-inspect: operation=DIR alpha=0.1"
    )
    made.set_defaults(run=_export)
    made = commands.add_parser("body", help="print what Inspect's --generate-config takes")
    made.add_argument("arm", type=Path, nargs="?", help="what export wrote; none for the baseline")
    made.add_argument("--alpha", type=float)
    made.add_argument(
        "--register", action="store_true", help="for /v1/hooks/register instead: all requests are steered"
    )
    made.set_defaults(run=_body)
    made = commands.add_parser("ask", help="write answers for `sae-moral flames --answers`")
    made.add_argument("out", type=Path)
    made.add_argument("--url", required=True, help="of the server, with /v1")
    made.add_argument("--model", required=True, help="as the server calls it")
    made.add_argument("--arm", type=Path, help="what export wrote; none for the baseline")
    made.add_argument("--alpha", type=float)
    made.add_argument("--prompts", type=Path, help="default: the published file, downloaded once")
    made.add_argument("--limit", type=int, help="at most so many, balanced over dimensions")
    made.add_argument("--max-tokens", type=int, default=256)
    made.add_argument("--connections", type=int, default=64, help="requests at a time")
    made.set_defaults(run=_ask)
    given = parser.parse_args(arguments)
    try:
        print(given.run(given))
    except (ValueError, OSError) as error:
        print(f"sae-moral-vllm: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"sae-moral-vllm: {error}", file=sys.stderr)
        return 3
    return 0


def _export(given: argparse.Namespace) -> Path:
    import yaml
    from sae_moral_inspect.configuration import configuration_of, load_operations, steerings_of

    from sae_moral_vllm.export import export

    pairs = [one.partition("=") for one in given.how]
    configuration = configuration_of({name: yaml.safe_load(value) for name, _, value in pairs})
    if configuration.kl is not None:
        raise ValueError("kl= needs the model; give the alpha= that a sweep or a local run found for it")
    operations = load_operations(configuration, "cpu")
    width = int(operations[0].sae.sae.cfg.d_in) if operations else 0
    return export(steerings_of(configuration, operations, width), given.out)


def _body(given: argparse.Namespace) -> str:
    if given.register:
        return json.dumps({"hooks": [hook_record(edit) for edit in served_edits(given.arm, given.alpha)]})
    return json.dumps({"extra_body": request_body(given.arm, given.alpha)})


def _ask(given: argparse.Namespace) -> Path:
    from inspect_ai.model import GenerateConfig
    from sae_moral_inspect.prompts import flames_prompts

    from sae_moral_vllm.client import ask

    prompts = flames_prompts(given.prompts, limit=given.limit)
    decoding = GenerateConfig(max_tokens=given.max_tokens, max_connections=given.connections)
    how = {"url": given.url, "model": given.model, "arm": given.arm, "alpha": given.alpha, "decoding": decoding}
    return ask(prompts, given.out.stem, given.out, **how)
