"""The whole benchmark from one command, the judge included.

    python benchmarks/flames/run.py --model gemma-3-270m --operations DIR --shuffled DIR --prompts FILE --limit 24 \\
        --max-tokens 48 --serve-judge smollm2-135m-instruct --language en --judge-max-tokens 24 --out OUT

All options of `sae-moral flames`, and `--serve-judge MODEL`: serve that model, or a GGUF file by llama.cpp, on the
loopback and let it judge. Run again after a kill, it goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sae_moral_inspect.cli import folder, parser
from sae_moral_inspect.cli import main as flames

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.flames.server import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status is that of `sae-moral flames`."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--serve-judge", metavar="MODEL")
    own.add_argument("--judge", nargs="+", default=[])
    given, rest = own.parse_known_args(arguments)
    judges = ["--judge", *given.judge] if given.judge else []
    if given.serve_judge is None:
        return flames([*rest, *judges])
    out = folder(parser().parse_args(rest))  # bad options end it here, before a server is started
    try:
        with serve(given.serve_judge, out / "judge-server.log") as (url, name):
            os.environ["LOOPBACK_BASE_URL"], os.environ["LOOPBACK_API_KEY"] = url, "none"
            # One request at a time: a server on few cores answers several at once many times slower.
            served = ["--judge", f"openai-api/loopback/{name}", *given.judge]
            return flames(["--judge-connections", "1", *rest, *served])
    except (FileNotFoundError, RuntimeError) as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
