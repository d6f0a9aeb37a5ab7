"""Do operations move a model beyond their twins? Surgery that writes, with its controls over several seeds, at several
layers, and a sweep of all of them at equal damage.

    python -m benchmarks.replication.steering MODEL SAES --out OUT [--layers 10,15,20] [--writes representation,output]
        [--seeds 5] [--rotations 119] [--kls 0.005,0.02,0.08] [--limit N] [--data SOURCE] [--path FILE]
        [--dtype bfloat16] [--device cuda]
    python -m benchmarks.replication.steering --out OUT        # the page alone, from what is there

SAES is a folder that `sae-moral train-sae` wrote. Per layer and write, in OUT/MODEL/layer_L/WRITE: operations with
`--seeds` seeds of surgery, as many on shuffled labels, trained exactly as long, one on random latents; and the sweep.
`output`, `downstream` and `order` (`sae_moral.steering.model_writes`) are learnt on training texts, with the chosen
words and after the wordings that are not held out. Everything finished is taken as it is: an interrupted run goes on
where it ended; layers may be run side by side. OUT/steering.md and its figure are of everything that OUT holds.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import shlex
import sys
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.replication.surgery import SHARES, kept_epoch
from sae_moral import load_data, load_model
from sae_moral.data import MoralData
from sae_moral.data.splits import Split, group_split
from sae_moral.io import jsonable, read_typed, write_record, write_text
from sae_moral.protocol import parse_layers
from sae_moral.sae import LoadedSae, load_saes
from sae_moral.steering import Words, choose_words
from sae_moral.steering.model_writes import MODEL_WRITES, OUTPUT, model_write
from sae_moral.studies import Sweep, sweep
from sae_moral.studies.beyond import TOGETHER, corrected
from sae_moral.studies.sweep_page import COLOURS, HELD_OUT, verdicts
from sae_moral.studies.sweep_results import TWINS
from sae_moral.studies.sweep_run import WORD_TEXTS
from sae_moral.surgery import Operation, WriteTerm, operate

Found = dict[tuple[str, int, str], Sweep]
"""(model, layer, write) → a sweep."""


def run(model: Any, sae: LoadedSae, data: MoralData, split: Split, words: Words, out: Path, given: Any) -> None:
    """One layer: its operations for every write, then their sweep."""
    for name in given.writes.split(","):
        folder, train = out / name, data.subset(split["train"])
        write: str | WriteTerm = name
        if name in MODEL_WRITES and not (folder / "sweep.json").exists():
            readers = partial(operate, sae, None, model, data, split=split, store=out / "vectors", write="shared")
            write = model_write(name, model, sae.layer, train, words.learnt, readers=readers)
        arms = operations(model, sae, data, split, write, folder, given.seeds)
        found = sweep(
            model,
            arms["none"],
            data,
            kls=[float(kl) for kl in given.kls.split(",")],
            shuffled=arms["shuffled"],
            random_latents=arms["random"],
            rotations=range(given.rotations),
            words=words,
            split=split,
            limit=given.scenarios,
            out=folder,
        )
        print(f"{found.summary()}\n{found.save(folder)}", flush=True)


def words_of(model: Any, train: MoralData, out: Path) -> Words:
    """As the sweep chooses them; once for all layers."""
    some = train.sample(min(WORD_TEXTS, len(train)))
    file = out / f"words-{some.sha256[:12]}.json"
    if not file.exists():
        write_record(file, "words", 1, jsonable(choose_words(model, some)))
    return read_typed(file, Words, "words", 1)


def operations(
    model: Any, sae: LoadedSae, data: MoralData, split: Split, write: str | WriteTerm, out: Path, seeds: int
) -> dict[str, list[Operation]]:
    """{control: operations}, saved in OUT/CONTROL-SEED; those that are there are loaded."""
    found: dict[str, list[Operation]] = {}
    for control, n in (("none", seeds), ("shuffled", seeds), ("random", 1)):
        for seed in range(n):
            folder, options = out / f"{control}-{seed}", {"control": control, "seed": seed, "write": write}
            if not (folder / "surgery.json").exists():
                # Random latents leave out every moral one, so those are found again.
                latents = found["none"][0].by_dimension if found and control != "random" else None
                if control == "shuffled":  # by its own validation part it would stop at once
                    options |= {"early_stop": False, "epochs": kept_epoch(found["none"][seed])}
                made = operate(sae, latents, model, data, split=split, store=out.parent / "vectors", **options)
                made.save(folder)
                print(f"{folder.parent.name} {control} {seed}: {made.record.seconds} s", flush=True)
            found.setdefault(control, []).append(Operation.load(folder, device=model.cfg.device))
    return found


def found_in(out: Path) -> Found:
    """Everything that is finished."""
    found = {}
    for file in out.glob("*/layer_*/*/sweep.json"):
        model, layer, write = file.parts[-4:-1]
        found[model, int(layer.removeprefix("layer_")), write] = Sweep.load(file)
    return dict(sorted(found.items()))


def figure(found: Found) -> Figure:
    """Change of the AUROC of held-out words against KL, every arm: a row per model and write, a panel per layer."""
    rows = list(dict.fromkeys((model, write) for model, _, write in found))
    layers = {row: [layer for model, layer, write in found if (model, write) == row] for row in rows}
    wide = max(map(len, layers.values()))
    kls = {row.kl_asked for one in found.values() for row in one.rows} - {None}
    drawn = Figure(figsize=(1.6 + (1.2 + 0.6 * len(kls)) * wide, 2.6 * len(rows)), layout="constrained")
    grid = drawn.subplots(len(rows), wide, squeeze=False, sharey="row")
    for panels, (model, write) in zip(grid, rows, strict=True):
        for panel in panels[len(layers[model, write]) :]:
            panel.set_visible(False)
        for panel, layer in zip(panels, layers[model, write], strict=False):
            for arm in ("rotated", *[one for one in TWINS if one != "rotated"], "operated"):
                own = [row for row in found[model, layer, write].rows if row.arm == arm]
                known = [(row.kl, one.auroc_change) for row in own if (one := row.effect(HELD_OUT)) is not None]
                x, y = zip(*known, strict=True) if known else ((), ())
                mark, size = ("_", 12) if arm == "rotated" else ("o", 18)
                panel.scatter(x, y, color=COLOURS[arm], marker=mark, s=size, linewidths=0.8, label=arm)
            panel.axhline(0, color="#9aa1ab", linewidth=0.8)
            asked = [row.kl_asked for row in found[model, layer, write].rows if row.kl_asked is not None]
            panel.set_xscale("log")
            panel.set_xlim(min(asked) / 2, max(asked) * 2)
            panel.set_xticks(sorted({*asked}), [f"{kl:g}" for kl in sorted({*asked})])
            panel.minorticks_off()
            panel.set_xlabel("KL on neutral text", fontsize=8)
            panel.set_title(f"layer {layer}", fontsize=8)
        panels[0].set_ylabel(f"{model}, {write}\nAUROC, held-out words, change", fontsize=8)
    drawn.legend(*grid[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize=7, frameon=False)
    return drawn


def page(found: Found, out: Path) -> str:
    """What was run, a sentence for every sweep and damage, the figure, the operations against every twin, and what
    surgery did to the SAEs."""
    found = over_layers(found)
    command = f"python -m benchmarks.replication.steering {shlex.join(sys.argv[1:])}"
    lines = ["# Do operations move a model beyond their twins?", ""]
    lines += [f"Made on {date.today().isoformat()} ({platform.machine()}, {os.cpu_count()} shared CPU cores) by", ""]
    lines += ["```sh", command, "```", "", "p is corrected over the layers that are shown of a model and a write.", ""]
    for (model, _, write), one in found.items():
        lines += [f"- {model}, {write}: {said}" for said in verdicts(one.rows, one.beyond)]
    head = "| model, layer, write | KL | AUROC unsteered | operated (share pushed wrong) | "
    lines += ["", "![Change of the AUROC by damage](steering.png)", "", "## Held-out words, all wordings together", ""]
    lines += [head + " | ".join(f"− {twin}" for twin in TWINS) + " |", "|---|" + "---|" * (3 + len(TWINS))]
    lines += [line for place, one in found.items() for line in _lines(place, one)]
    lines += [
        "",
        "## Held-out words, by wording",
        "",
        "Unsteered → operated; the twins that the operations are beyond.",
        "",
    ]
    lines += [
        f"| model, layer, write | KL | {' | '.join(wordings(found))} |",
        "|---|---" + "|---" * len(wordings(found)) + "|",
    ]
    lines += [line for place, one in found.items() for line in _by_wording(place, one, wordings(found))]
    return "\n".join([*lines, *_surgery(found, out)]) + "\n"


def over_layers(found: Found) -> Found:
    """The same sweeps, p-values corrected over the layers of each model and write: every layer is a sweep here."""
    made = dict(found)
    for family in dict.fromkeys((model, write) for model, _, write in found):
        places = [place for place in found if (place[0], place[2]) == family]
        every = corrected([one for place in places for one in found[place].beyond])
        for place in places:
            own = [one for one in every if one.layer == place[1]]
            made[place] = dataclasses.replace(found[place], beyond=own)
    return made


SURGERY = ("reading_auroc", "polarity_auroc", "polarity_margin", "ordering_accuracy", "reconstruction_error")


def _surgery(found: Found, out: Path) -> list[str]:
    """Of the test part, before → after, means over the seeds."""
    lines = [
        "",
        "## The same operations, in the SAE",
        "",
        "Means over seeds, before → after, on scenarios that took no part.",
        "",
    ]
    lines += [f"| model, layer, write (seeds, latents) | {' | '.join(SURGERY)} | longest row |", "|---" * 7 + "|"]
    for model, layer, write in found:
        made = [Operation.load(one) for one in sorted((out / model / f"layer_{layer:02d}" / write).glob("none-*"))]
        rows: list[dict[str, Any]] = [
            {row["statistic"]: row for row in one.record.table if row["group"] == "overall"} for one in made
        ]
        before, after = (
            {name: float(np.mean([row[name][side] for row in rows])) for name in SURGERY}
            for side in ("before", "after")
        )
        cells = [f"{before[name]:.3f} → {after[name]:.3f}" for name in SURGERY[:-1]]
        longest = max(one.record.written["longest"] for one in made if one.record.written)
        cells += [f"{after[SURGERY[-1]] / before[SURGERY[-1]] - 1:+.2%}", f"{longest:.2f} ×"]
        lines.append(f"| {model}, {layer}, {write} ({len(made)}, {len(made[0].latents)}) | {' | '.join(cells)} |")
    return lines


def _lines(place: tuple[str, int, str], found: Sweep) -> list[str]:
    (plain,) = (one for one in found.unsteered.words if (one.wording, one.use) == (TOGETHER, HELD_OUT))
    lines = []
    for kl in dict.fromkeys(row.kl_asked for row in found.rows if row.kl_asked is not None):
        own = [row.effect(HELD_OUT) for row in found.rows if (row.arm, row.kl_asked) == ("operated", kl)]
        effects = [one for one in own if one is not None and one.auroc is not None and one.pushed_wrong is not None]
        if not effects or plain.auroc is None:
            continue
        auroc, wrong = (sum(getattr(one, name) for one in effects) / len(effects) for name in ("auroc", "pushed_wrong"))
        against = {b.twin: b for b in found.beyond if (b.kl, b.wording, b.use) == (kl, TOGETHER, HELD_OUT)}
        cells = [
            "–" if (one := against.get(twin)) is None else f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
            + ("" if one.p_corrected is None else f" (p {one.p_corrected:.3f})")
            for twin in TWINS
        ]  # fmt: skip
        start = f"| {place[0]}, {place[1]}, {place[2]} | {kl:g} | {plain.auroc:.3f} | {auroc:.3f} ({wrong:.2f}) |"
        lines.append(f"{start} {' | '.join(cells)} |")
    return lines


def wordings(found: Found) -> list[str]:
    """All that were asked with, of one language together left out."""
    names = [effect.wording for one in found.values() for effect in one.unsteered.words]
    return [name for name in dict.fromkeys(names) if name != TOGETHER]


def _by_wording(place: tuple[str, int, str], found: Sweep, names: list[str]) -> list[str]:
    """Unsteered → operated of each wording, and the kinds of twin that the operations are beyond."""
    plain = {one.wording: one.auroc for one in found.unsteered.words if one.use == HELD_OUT}
    lines = []
    for kl in dict.fromkeys(row.kl_asked for row in found.rows if row.kl_asked is not None):
        own = [row for row in found.rows if (row.arm, row.kl_asked) == ("operated", kl)]
        cells = []
        for name in names:
            effects = [row.effect(HELD_OUT, name) for row in own]
            known = [one.auroc for one in effects if one is not None and one.auroc is not None]
            before = plain.get(name)
            beyond = [b.twin for b in found.beyond if (b.kl, b.wording, b.use, b.holds) == (kl, name, HELD_OUT, True)]
            said = ", ".join(beyond) or "none"
            cells.append(f"{before:.3f} → {np.mean(known):.3f}; {said}" if known and before is not None else "–")
        lines.append(f"| {place[0]}, {place[1]}, {place[2]} | {kl:g} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", metavar="MODEL")
    parser.add_argument("saes", nargs="?", metavar="SAES", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", default="all", help="of those SAES has")
    parser.add_argument("--writes", default=f"representation,{OUTPUT}")
    parser.add_argument("--seeds", type=int, default=5, help="of surgery, and of shuffled labels")
    parser.add_argument("--rotations", type=int, default=119, help="being beyond 19, at all layers, is p = 0.05")
    parser.add_argument("--kls", default="0.005,0.02,0.08")
    parser.add_argument("--scenarios", type=int, help="measure on at most so many held-out ones")
    parser.add_argument("--data", default="moralstrength")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--limit", type=int, help="scenarios in all")
    parser.add_argument("--dtype", default="float32", help="of the model")
    parser.add_argument("--device", help="cpu, cuda, … (default: cuda when there is one)")
    given = parser.parse_args()
    if given.model is not None:
        data = load_data(given.data, path=given.path)
        data = data if given.limit is None else data.sample(given.limit)
        train, validation, test = map(float, SHARES.split(","))
        split = group_split(data, shares=(train, validation, test))
        model = load_model(given.model, dtype=given.dtype, device=given.device)
        saes = load_saes(given.saes, model=model)
        wanted = list(saes) if given.layers == "all" else parse_layers(given.layers, model.cfg.n_layers)
        words = words_of(model, data.subset(split["train"]), given.out / Path(given.model).name)
        for layer in wanted:
            folder = given.out / Path(given.model).name / f"layer_{layer:02d}"
            run(model, saes[layer], data, split, words, folder, given)
    found = found_in(given.out)
    figure(found).savefig(given.out / "steering.png", dpi=130)
    write_text(given.out / "steering.md", page(found, given.out))
    print(given.out / "steering.md")


if __name__ == "__main__":
    main()
