"""The command line of a run: `sae-moral flames`, and `benchmarks/flames/run.py`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sae_moral.cli.failures import in_options
from sae_moral.log import shown_log
from sae_moral.workers import workers
from sae_moral_inspect.answers import KINDS, read_answers
from sae_moral_inspect.judging import FORMS
from sae_moral_inspect.prompts import flames_prompts


def parser() -> argparse.ArgumentParser:
    """Its options."""
    made = argparse.ArgumentParser(
        prog="sae-moral flames",
        description="Run the benchmark Flames on a model and on its steered selves, judged in both orders. Run again "
        "after a kill, it goes on where it was.",
    )
    made.add_argument("--model", help="a bundled model, a folder, or a hub name")
    made.add_argument("--operations", nargs="+", default=[], metavar="DIR", help="what `sae-moral operate` wrote")
    made.add_argument(
        "--shuffled",
        nargs="+",
        default=[],
        metavar="DIR",
        help="the same with --control shuffled, one or several seeds",
    )
    made.add_argument("--twins", type=Path, metavar="DIR", help="folder `twins` of a sweep: dense, valence, constant")
    made.add_argument("--kls", nargs="+", type=float, default=[], metavar="K", help="strengths as KL on neutral text")
    made.add_argument("--alphas", nargs="+", type=float, metavar="A", help="or as α (default without --kls: 0.1)")
    made.add_argument("--together", action="store_true", help="all layers at once as well")
    made.add_argument("--rotations", type=int, default=1, metavar="N", help="of each write, for rotated and permuted")
    made.add_argument("--form", default="edit", help="edit (default), write or paper")
    made.add_argument("--units", default="alpha", help="alpha (default) or relative")
    made.add_argument(
        "--positions", default="all-but-first", help="all-but-first (default), all, prompt, last or generated"
    )
    made.add_argument("--any-model", action="store_true", help="accept SAEs of a model with another name")
    made.add_argument("--arms", nargs="+", default=KINDS[:4], choices=KINDS, help="beside the baseline")
    made.add_argument("--prompts", type=Path, metavar="FILE", help="default: the published file, downloaded once")
    made.add_argument("--limit", type=int, metavar="N", help="at most N prompts, balanced over dimensions")
    made.add_argument("--max-tokens", type=int, default=256, metavar="N", help="of an answer (default: %(default)s)")
    made.add_argument("--temperature", type=float, default=0.0, help="default: 0, the likeliest tokens")
    made.add_argument("--top-p", type=float, default=1.0)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--batch-size", type=int, default=8, metavar="N")
    made.add_argument("--dtype", default="float32")
    made.add_argument("--revision", help="branch, tag or commit of a hub name")
    made.add_argument("--device")
    made.add_argument("--thinking", action="store_true", help="for chat templates that know it")
    made.add_argument("--answers", nargs="+", type=Path, metavar="FILE", help="judge these .jsonl answers instead")
    made.add_argument(
        "--harmless", type=int, default=24, metavar="N", help="questions without harm beside them (default: all 24)"
    )
    made.add_argument("--judge", nargs="+", default=[], metavar="MODEL", help="any Inspect model; two for agreement")
    made.add_argument("--language", default="zh", choices=("zh", "en"), help="of the rubric (default: zh)")
    made.add_argument(
        "--judging",
        default="text",
        choices=FORMS,
        help="of judging: replies that are read, or the log-probabilities of A, B, C or 1, 2, 3",
    )
    made.add_argument(
        "--no-calibration", action="store_true", help="do not judge the 50 pairs with a known better answer"
    )
    made.add_argument("--repeats", type=int, default=1, metavar="N", help="ask each question N times")
    made.add_argument("--judge-max-tokens", type=int, default=256, metavar="N")
    made.add_argument("--judge-temperature", type=float, default=0.0)
    made.add_argument("--judge-timeout", type=int, default=120, metavar="SECONDS", help="of one attempt")
    made.add_argument("--judge-retries", type=int, default=3, metavar="N")
    made.add_argument("--judge-connections", type=int, default=4, metavar="N", help="requests at a time")
    made.add_argument("--scorer", default="judge", choices=("judge", "classifier"), help="who grades")
    made.add_argument("--trust-remote-code", action="store_true", help="the classifier runs code from the hub")
    made.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default: flames-MODEL)")
    made.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share the work (default: 1)")
    made.add_argument("--overwrite", action="store_true", help="take over a folder that holds another run")
    made.add_argument("-v", "--verbose", action="store_true", help="log what takes long, on standard error")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0 done, 2 bad input, 3 stopped on the way (run it again)."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    made = parser()
    given = made.parse_args(line)
    try:
        with shown_log() if given.verbose else contextlib.nullcontext():
            return _main(given, partial(main, [*line, "--workers", "1"]))
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        print(f"sae-moral flames: {in_options(str(error), made)}", file=sys.stderr)
        return 2
    except (RuntimeError, OSError) as error:
        print(f"sae-moral flames: {in_options(str(error), made)}", file=sys.stderr)
        return 3


def folder(given: argparse.Namespace) -> Path:
    """`--out`, or a name that is made of the whole model name.

    Raises:
        ValueError: neither `--model` nor `--answers`, or both.
    """
    if (given.answers is None) == (given.model is None):
        raise ValueError("say who answers: --model MODEL (with --operations DIR…), or --answers FILE…")
    return given.out or Path(f"flames-{Path(given.model).name if given.model else given.answers[0].stem}")


def _main(given: argparse.Namespace, again: Callable[[], int]) -> int:
    from inspect_ai.model import GenerateConfig, get_model

    from sae_moral_inspect.arms import arms_of
    from sae_moral_inspect.calibration import harmless_prompts
    from sae_moral_inspect.report import summary
    from sae_moral_inspect.run import REPORT, Judges, run

    out = folder(given)
    asked = GenerateConfig(
        temperature=given.judge_temperature,
        max_tokens=given.judge_max_tokens,
        attempt_timeout=given.judge_timeout,
        max_retries=given.judge_retries,
        max_connections=given.judge_connections,
    )
    shared = {name: getattr(given, name) for name in ("dtype", "batch_size", "thinking")}
    shared |= {"device": given.device} if given.device else {}
    judges = Judges(
        [get_model(name, config=asked, **(shared if name.startswith("sae-moral/") else {})) for name in given.judge],
        given.language,
        given.repeats,
        given.judge_connections,
        given.scorer,
        given.trust_remote_code,
        given.judging,
        not given.no_calibration,
    )
    how = ("out", "overwrite", "workers", "verbose")
    provenance = {name: _plain(value) for name, value in vars(given).items() if name not in how}
    options: dict[str, Any] = {"provenance": provenance, "overwrite": given.overwrite}
    if given.answers:
        options["answers"] = read_answers(given.answers)
    else:
        options["model"], options["prompts"] = given.model, flames_prompts(given.prompts, limit=given.limit)
        options["harmless"] = harmless_prompts()[: given.harmless]
        options["decoding"] = GenerateConfig(
            temperature=given.temperature, top_p=given.top_p, max_tokens=given.max_tokens
        )
        names = ("form", "units", "positions", "any_model", *(["revision"] if given.revision else []))
        common = {**shared, **{name: getattr(given, name) for name in names}}
        options["arms"] = arms_of(
            given.operations,
            shuffled=given.shuffled,
            twins=given.twins,
            alphas=given.alphas or ([] if given.kls else [0.1]),
            kls=given.kls,
            rotations=given.rotations,
            together=given.together,
            kinds=given.arms,
            seed=given.seed,
            **common,
        )
    with workers(given.workers, again, logs=out / "workers", device=given.device):
        results = run(out, judges, **options)
    print(summary(results))
    print(f"\n{out / REPORT}")
    return 0


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    sys.exit(main())
