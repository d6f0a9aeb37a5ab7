"""`sae-moral steer` and `sae-moral sweep`: what operations do to a model’s words, at one strength and over many."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from pathlib import Path
from typing import Any

from sae_moral._cli_arguments import add_running, add_scenarios, folder, names, quiet_loading, scenarios
from sae_moral._cli_surgery import add_shares, parts


def add_steering(commands: argparse._SubParsersAction) -> None:
    """Add both commands to the parser of `sae-moral`."""
    steer = commands.add_parser(
        "steer",
        help="what a model says as it is, and steered by an operation",
        description="Generate twice from every prompt, unsteered and steered, with the same seed and decoding; words "
        "that differ are marked.",
    )
    steer.set_defaults(run=_steer)
    steer.add_argument("model", metavar="MODEL", help="a bundled model, a folder, or a hub name")
    steer.add_argument("operation", metavar="OPERATION", type=Path, nargs="+", help="folders of sae-moral operate")
    steer.add_argument("--prompt", action="append", required=True, help="may be given several times")
    steer.add_argument("--alpha", default="1", metavar="A,B", help="strengths, one after the other (default: 1)")
    _add_form(steer)
    steer.add_argument(
        "--positions", default="all-but-first", help="all-but-first (default), all, prompt, last or generated"
    )
    steer.add_argument("--tokens", type=int, default=64, metavar="N", help="new tokens at most (default: 64)")
    steer.add_argument("--temperature", type=float, default=0.0, help="0 (default): the likeliest token")
    steer.add_argument("--top-p", type=float, default=1.0)
    steer.add_argument("--seed", type=int, default=0)
    steer.add_argument("--chat", choices=["auto", "yes", "no"], default="auto", help="use the chat template")
    steer.add_argument("--dtype", default="float32")
    steer.add_argument("--device")
    sweep = commands.add_parser(
        "sweep",
        help="effect and damage of operations over strengths, beside directions of the same norm",
        description="Measure operations at every strength beside dense and random directions; writes sweep.html "
        "and sweep.json. Run again after a crash, it goes on where it was.",
    )
    sweep.set_defaults(run=_sweep)
    add_scenarios(sweep)
    sweep.add_argument("operations", metavar="OPERATION", type=Path, nargs="+", help="folders of sae-moral operate")
    sweep.add_argument("--shuffled", type=Path, nargs="*", default=[], help="folders of --control shuffled")
    sweep.add_argument("--alphas", required=True, metavar="A,B", help="strengths, e.g. 0.5,1,2,4")
    _add_form(sweep)
    sweep.add_argument("--positions", default="all-but-first", help="all-but-first (default) or all")
    sweep.add_argument(
        "--random", type=int, default=19, metavar="N", help="random directions per strength (default: 19)"
    )
    sweep.add_argument(
        "--full-measures",
        type=int,
        default=3,
        metavar="N",
        help="how many of them take all measures (default: 3)",
    )
    add_shares(sweep)
    sweep.add_argument("--overwrite", action="store_true", help="take over a folder that holds another sweep")
    sweep.add_argument("--downstream", type=int, metavar="LAYER", help="where the audited measures are taken")
    sweep.add_argument("--neutral", type=Path, metavar="FILE", help="neutral texts, one a line (default: our own)")
    sweep.add_argument(
        "--pairs",
        metavar="A/B,C/D",
        help="approving/disapproving next words, spaces and all (default: ' right/ wrong, good/ bad, acceptable/ "
        "unacceptable')",
    )
    add_running(sweep, out="sweep-MODEL-DATA")


def _add_form(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--form", default="edit", metavar="A,B", help="edit (default) or paper; sweep: or both")
    parser.add_argument("--units", default="alpha", help="alpha (default) or relative to the residual stream's norm")


def _steer(arguments: argparse.Namespace) -> int:
    from sae_moral import load_model
    from sae_moral.steering import Steering, generate
    from sae_moral.surgery import Operation

    quiet_loading()
    strengths = _numbers(arguments.alpha)
    model = load_model(arguments.model, dtype=arguments.dtype, device=arguments.device)
    operations = [Operation.load(path, device=model.cfg.device) for path in arguments.operation]
    options: dict[str, Any] = {
        "max_new_tokens": arguments.tokens,
        "temperature": arguments.temperature,
        "top_p": arguments.top_p,
        "seed": arguments.seed,
        "chat": {"auto": "auto", "yes": True, "no": False}[arguments.chat],
    }
    how = {"units": arguments.units, "form": arguments.form, "positions": arguments.positions}
    chosen = {alpha: [Steering(one, alpha, **how) for one in operations] for alpha in strengths}
    plain = generate(model, arguments.prompt, **options)
    steered = {a: generate(model, arguments.prompt, steerings=given, **options) for a, given in chosen.items()}
    colour = sys.stdout.isatty()
    for i, prompt in enumerate(arguments.prompt):
        print(f"\n{prompt}\n  unsteered  {_flat(plain[i].text)}")
        for alpha, found in steered.items():
            print(f"  α = {alpha:<6g} {marked(plain[i].text, found[i].text, colour=colour)}")
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    from sae_moral import load_model
    from sae_moral.steering import MeasureSettings
    from sae_moral.studies import sweep
    from sae_moral.surgery import Operation

    quiet_loading()
    alphas, out = _numbers(arguments.alphas), folder(arguments, "sweep")
    given: dict[str, Any] = {}
    if arguments.neutral:
        lines = arguments.neutral.read_text(encoding="utf8").splitlines()
        given["neutral"] = tuple(line for line in lines if line.strip())
    if arguments.pairs:
        given["pairs"] = _pairs(arguments.pairs)
    model = load_model(arguments.model, dtype=arguments.dtype, device=arguments.device)
    operations, shuffled = (
        [Operation.load(path, device=model.cfg.device) for path in paths]
        for paths in (arguments.operations, arguments.shuffled)
    )
    data = scenarios(arguments)
    found = sweep(
        model,
        operations,
        data,
        alphas=alphas,
        out=out,
        shuffled=shuffled,
        forms=names(arguments.form) or (),
        units=arguments.units,
        positions=arguments.positions,
        random_seeds=range(arguments.random),
        full_measures=arguments.full_measures,
        split=parts(data, arguments.shares),
        downstream=arguments.downstream,
        settings=MeasureSettings(**given),
        limit=arguments.limit,
        overwrite=arguments.overwrite,
    )
    path = found.save(out)
    print(found.summary())
    print(path)
    return 0


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"strengths {text!r}; expected numbers with commas, e.g. 0.5,1,2") from None


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [tuple(pair.split("/")) for pair in text.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"pairs {text!r}; expected words in twos, e.g. ' right/ wrong, good/ bad'")
    return tuple((good, bad) for good, bad in pairs)


def marked(plain: str, steered: str, *, colour: bool) -> str:
    """The steered text with the words that the unsteered one does not have there in bold, or between `[` and `]`; `…`
    stands where words are missing. Chinese is compared character by character."""
    before, after = _words(plain), _words(steered)
    opening, closing = ("\033[1;33m", "\033[0m") if colour else ("[", "]")
    parts = []
    for what, _, stop, first, last in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        text = "".join(after[first:last])
        if what == "equal":
            parts.append(text)
        elif what == "delete":
            parts.append(f"{opening}…{closing}" + (" " if before[stop - 1].endswith(" ") else ""))
        else:
            body = text.rstrip()
            parts.append(f"{opening}{body}{closing}{text[len(body) :]}")
    return "".join(parts)


def _words(text: str) -> list[str]:
    return re.findall(r"[\u3000-\u9fff\uff00-\uffef]\s?|[^\s\u3000-\u9fff\uff00-\uffef]+\s?|\s", _flat(text))


def _flat(text: str) -> str:
    return " ".join(text.split())
