"""What operations do to a model: surgery with its controls at several layers, and a sweep of layers × strengths.

    python -m benchmarks.replication.steering MODEL SAES --out OUT [--layers 10,15,20] [--data SOURCE] [--path FILE]
        [--alphas 1,4,16] [--shares-of-norm 0.05,0.1,0.2] [--random 19] [--full-measures 3]
        [--device cuda]
    python -m benchmarks.replication.steering --out OUT        # the page alone, from what is there

SAES is a folder that `sae-moral train-sae` wrote. Per layer: OUT/MODEL/layer_L/surgery.md beside the operations, and
two sweeps of the operated SAE against shuffled labels, the difference in means and random directions of its norm:
strengths as multiples of the edit (`alpha`), and as shares of the residual stream's norm (`relative`), which make
layers comparable. Everything finished is taken as it is, so that an interrupted run goes on where it ended; layers may
be run side by side. OUT/steering.md and its figure are of all models and layers that OUT holds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.replication.surgery import SHARES, arms
from sae_moral import load_data, load_model
from sae_moral.data import MoralData
from sae_moral.data.splits import Split, group_split
from sae_moral.io import write_text
from sae_moral.protocol import parse_layers
from sae_moral.sae import LoadedSae, load_saes
from sae_moral.studies import Sweep, SweepRow, sweep
from sae_moral.studies.sweep_page import COLOURS, gain_error
from sae_moral.surgery import Operation

SHOWN = ("operated", "shuffled", "dense")
Found = dict[tuple[str, int, str], Sweep]
"""(model, layer, units) → a sweep."""
Arms = dict[str, list[SweepRow]]


def run(model: Any, sae: LoadedSae, data: MoralData, split: Split, out: Path, given: argparse.Namespace) -> None:
    """One layer: its operations, then its sweeps."""
    if not (out / "surgery.md").exists():
        write_text(out / "surgery.md", arms(model, sae, data, split, out)[1])
    operated, shuffled = (Operation.load(out / control, device=model.cfg.device) for control in ("none", "shuffled"))
    for units, strengths in (("alpha", given.alphas), ("relative", given.shares_of_norm)):
        found = sweep(
            model,
            [operated],
            data,
            alphas=[float(strength) for strength in strengths.split(",")],
            shuffled=[shuffled],
            units=units,
            random_seeds=range(given.random),
            full_measures=given.full_measures,
            split=split,
            out=out / units,
        )
        found.save(out / units)


def found_in(out: Path) -> Found:
    """Everything that is finished."""
    found = {}
    for file in out.glob("*/layer_*/*/sweep.json"):
        model, layer, units = file.parts[-4:-1]
        found[model, int(layer.removeprefix("layer_")), units] = Sweep.load(file)
    return dict(sorted(found.items()))


def figure(found: Found) -> Figure:
    """Gain by the share of the norm that is injected: a row per model, a panel per layer, every strength of both
    sweeps; grey: every random direction of the operated arm's norm."""
    places: dict[str, dict[int, list[SweepRow]]] = {}
    for (model, layer, _), one in found.items():
        places.setdefault(model, {}).setdefault(layer, []).extend(one.rows)
    wide = max(map(len, places.values()))
    drawn = Figure(figsize=(3.3 * wide, 3.0 * len(places)), layout="constrained")
    grid = drawn.subplots(len(places), wide, squeeze=False)
    for panels, (model, layers) in zip(grid, places.items(), strict=True):
        for panel in panels[len(layers) :]:
            panel.set_visible(False)
        for panel, (layer, rows) in zip(panels, layers.items(), strict=False):
            _panel(panel, [row for row in rows if row.gain is not None])
            panel.set_title(f"{model}, layer {layer}", fontsize=9)
        panels[0].set_ylabel("gap, change (nats)")
    for panel in grid[-1]:
        panel.set_xlabel("share of the norm injected")
    grid[0][0].legend(fontsize=7, frameon=False)
    return drawn


def _panel(panel: Any, rows: list[SweepRow]) -> None:
    for arm, mark in {"random": "_", **dict.fromkeys(SHOWN, "o")}.items():
        own = [row for row in rows if row.arm == arm]
        x, y = [row.norm_share for row in own], [row.gain for row in own]
        panel.scatter(x, y, color=COLOURS[arm], marker=mark, s=14, linewidths=0.8, label=arm, zorder=2)
        if arm != "random":
            panel.errorbar(x, y, yerr=gain_error(own), fmt="none", ecolor=COLOURS[arm], linewidth=1)
    panel.axhline(0, color="#9aa1ab", linewidth=0.8, zorder=1)
    panel.set_xscale("log")
    panel.set_yscale("symlog", linthresh=0.1)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter("")


HEAD = "| model, layer | strength | operated | shuffled | dense | random |"
GAINS = " operated − shuffled | p operated | p dense | KL operated / random |"


def page(found: Found) -> str:
    """How many arms are special among random directions, the figure, and every strength of every sweep."""
    lines = ["# Does the model behave otherwise?", ""]
    for arm, words in (("operated", "operated SAE"), ("dense", "difference in means")):
        rows = [next((r for r in one.rows if r.arm == arm), None) for one in found.values()]
        p = [row.p_random for row in rows if row is not None and row.p_random is not None]
        lines.append(
            f"- {words}: p ≤ 0.05 among random directions of the same norm in {sum(value <= 0.05 for value in p)} of "
            f"{len(p)} sweeps (in one of twenty if it were just another direction)."
        )
    lines += ["", "![gain by strength](steering.png)", "", "## Words", "", HEAD + GAINS, "|---|" + "---|" * 9]
    lines += [_gains(*place) for place in _places(found)]
    for title, name in (("Categorical", "categorical_change"), ("Gradient", "gradient_change")):
        lines += ["", f"## {title}, behind the edit", "", HEAD, "|---|" + "---|" * 5]
        lines += [_headlines(name, *place) for place in _places(found)]
    return "\n".join(lines) + "\n"


def _places(found: Found) -> Iterator[tuple[str, Arms]]:
    """What begins a line, and the rows of its arms."""
    for (model, layer, units), one in found.items():
        for strength in sorted({row.alpha for row in one.rows}):
            arms: Arms = {}
            for row in one.rows:
                if row.alpha == strength and row.gain is not None:
                    arms.setdefault(row.arm, []).append(row)
            shown = f"α = {strength:g}" if units == "alpha" else f"{strength:.0%} of the norm"
            yield f"| {model}, {layer} | {shown} |", arms


def _gains(place: str, arms: Arms) -> str:
    operated, dense = (_first(arms, arm) for arm in ("operated", "dense"))
    cells = [_interval(_first(arms, arm), "gain") for arm in SHOWN]
    cells += [_range(arms, "gain"), _interval(operated, "over_shuffled")]
    cells += [_number(None if row is None else row.p_random, ".2f") for row in (operated, dense)]
    harm = [row.kl for row in arms.get("random", ()) if row.kl is not None]
    of_random = _number(statistics.median(harm) if harm else None, ".3g")
    cells.append(f"{_number(None if operated is None else operated.kl, '.3g')} / {of_random}")
    return f"{place} {' | '.join(cells)} |"


def _headlines(name: str, place: str, arms: Arms) -> str:
    rows = [_first(arms, arm) for arm in SHOWN]
    cells = [_number(None if row is None else getattr(row, name), "+.3f") for row in rows]
    return f"{place} {' | '.join([*cells, _range(arms, name)])} |"


def _first(arms: Arms, arm: str) -> SweepRow | None:
    return next(iter(arms.get(arm, ())), None)


def _interval(row: SweepRow | None, name: str) -> str:
    interval = None if row is None else row.interval(name)
    return "–" if interval is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval)


def _range(arms: Arms, name: str) -> str:
    values = [value for row in arms.get("random", ()) if (value := getattr(row, name)) is not None]
    return f"{min(values):+.3f} … {max(values):+.3f} ({len(values)})" if values else "–"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", metavar="MODEL")
    parser.add_argument("saes", nargs="?", metavar="SAES", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", default="all", help="of those SAES has")
    parser.add_argument("--data", default="moralstrength")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--alphas", default="1,4,16")
    parser.add_argument("--shares-of-norm", default="0.05,0.1,0.2")
    parser.add_argument("--random", type=int, default=19)
    parser.add_argument(
        "--full-measures", type=int, default=3, help="random directions that audited measures are taken of"
    )
    parser.add_argument("--device", help="cpu, cuda, … (default: cuda when there is one)")
    given = parser.parse_args()
    if given.model is not None:
        data = load_data(given.data, path=given.path)
        data = data if given.limit is None else data.sample(given.limit)
        train, validation, test = map(float, SHARES.split(","))
        split, model = group_split(data, shares=(train, validation, test)), load_model(given.model, device=given.device)
        saes = load_saes(given.saes, model=model)
        wanted = list(saes) if given.layers == "all" else parse_layers(given.layers, model.cfg.n_layers)
        for layer in wanted:
            run(model, saes[layer], data, split, given.out / Path(given.model).name / f"layer_{layer:02d}", given)
    found = found_in(given.out)
    figure(found).savefig(given.out / "steering.png", dpi=130)
    write_text(given.out / "steering.md", page(found))
    print(given.out / "steering.md")


if __name__ == "__main__":
    main()
