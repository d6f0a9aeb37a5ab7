"""Surgery on one SAE with its three controls, and what shuffled labels recover, as a markdown table.

    python benchmarks/replication/surgery.py MODEL SAE [--data SOURCE] [--path FILE] [--out DIR]
        [--shares 0.6,0.15,0.25] [--seed 0] [--settings default] [--limit N] [--device cuda]

All arms read the same texts: latents are found and trained on the first share, training stops by the second, the
table is of the third. `shuffled` and `no-surgery` operate on the latents of the true surgery, and `shuffled` trains
exactly as long: by its own validation part it would stop at once, and an edit that is not made is no control.
Operations are kept in OUT/CONTROL, the page in OUT/surgery.md. Seeds and splits are given, not averaged over.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sae_moral import load_data, load_model
from sae_moral.data import MoralData
from sae_moral.data.splits import Split, group_split
from sae_moral.io import write_text
from sae_moral.sae import LoadedSae, load_sae
from sae_moral.surgery import CONTROLS, Operation, operate
from sae_moral.surgery.evaluate import OVERALL, table
from sae_moral.surgery.record import Change
from sae_moral.surgery.terms import by_columns
from sae_moral.surgery.vectors import vectors_of

NAMES = {"none": "surgery", "shuffled": "shuffled labels", "random": "random latents", "no-surgery": "no surgery"}
SHARES = "0.6,0.15,0.25"
"""Of texts for training, for stopping, and for every number on the page."""
HIGHER = ("polarity_margin", "polarity_auroc", "ordering_accuracy", "spearman")


def overall(rows: list[Change]) -> dict[str, dict[str, Any]]:
    """The rows over all dimensions, by statistic."""
    return {row["statistic"]: dict(row) for row in rows if row["group"] == OVERALL}


def arm(row: Mapping[str, Any]) -> str:
    """One arm's before, after, change and interval."""
    return "–" if None in (row["before"], row["after"]) else f"{row['before']:.3g} → {row['after']:.3g}, {change(row)}"


def change(row: Mapping[str, Any]) -> str:
    """A change and its interval."""
    if None in (row["change"], row["ci_low"], row["ci_high"]):
        return "–"
    return f"{row['change']:+.3g} [{row['ci_low']:.3g}, {row['ci_high']:.3g}]"


def kept_epoch(operation: Operation, otherwise: Any = None) -> Any:
    """The epoch whose parameters were kept; `otherwise` where nothing was trained."""
    return operation.record.stopped["kept_epoch"] if operation.record.stopped else otherwise


def page(found: Mapping[str, Operation], beyond: list[Change]) -> str:
    """Changes by arm, what is beyond shuffled labels, and in words what that says."""
    rows = {control: overall(operation.record.table) for control, operation in found.items()}
    real = found["none"]
    about, weights = real.record.parts, real.record.weights
    lines = [
        f"# Surgery on {real.record.source}, layer {real.layer}",
        "",
        f"{len(real.latents)} latents ({', '.join(f'{name} {len(one)}' for name, one in real.by_dimension.items())}); "
        f"{weights['share_changed']:.2%} of the weights changed. {about['train']} training, {about['validation']} "
        f"validation and {about['test']} test scenarios; every number is of the test part, intervals are 95 % "
        "bootstrap over its texts. Kept epoch: "
        + ", ".join(f"{NAMES[c]} {kept_epoch(o, '–')}" for c, o in found.items()) + ".",
        "",
        "| statistic | " + " | ".join(NAMES[control] for control in found) + " | surgery − shuffled |",
        "|---|" + "---|" * (len(found) + 1),
    ]  # fmt: skip
    against = overall(beyond)
    for name in rows["none"]:
        cells = [arm(rows[control][name]) for control in found]
        lines.append(f"| {name} | {' | '.join(cells)} | {change(against[name])} |")
    error = rows["none"]["reconstruction_error"]
    lines += ["", f"Reconstruction error: {error['after'] / error['before'] - 1:+.2%}.", ""]
    for name in HIGHER:
        mine, shuffled, extra = rows["none"][name], rows["shuffled"][name], against[name]
        if None in (mine["ci_low"], extra["ci_low"]):
            lines.append(f"- {name}: undefined on too many draws.")
        elif mine["ci_low"] <= 0:
            lines.append(f"- {name}: no gain that excludes no change.")
        else:
            share = shuffled["change"] / mine["change"]
            verdict = "more than shuffled labels give" if extra["ci_low"] > 0 else "not shown to exceed shuffled labels"
            lines.append(f"- {name}: gains {change(mine)}; {verdict}, which give {share:.0%} of it.")
        other = rows["random"][name]
        if other["after"] is not None and other["after"] >= mine["after"]:
            lines.append(
                f"  Random latents end as high ({other['after']:.3g}, from {other['before']:.3g}): what is "
                "learnt does not depend on the latents having been moral."
            )
    return "\n".join(lines) + "\n"


def arms(
    model: Any, sae: LoadedSae, data: MoralData, split: Split, out: Path, *, settings: str = "default", seed: int = 0
) -> tuple[dict[str, Operation], str]:
    """Surgery and its controls, saved in OUT/CONTROL, and the page on them."""
    found: dict[str, Operation] = {}
    for control in CONTROLS:
        # Random latents leave out every moral one, so those are found again; the other arms share the surgery's.
        latents = found["none"].by_dimension if control in ("shuffled", "no-surgery") else None
        options: dict[str, Any] = {"settings": settings, "seed": seed, "split": split, "store": out / "vectors"}
        if control == "shuffled":
            options |= {"early_stop": False, "epochs": kept_epoch(found["none"])}
        found[control] = operate(sae, latents, model, data, control=control, **options)
        found[control].save(out / control)
        print(f"{NAMES[control]}: {found[control].record.seconds} s", flush=True)
    real, vectors = found["none"], vectors_of(model, data.text, sae, store=out / "vectors")
    sizes = torch.tensor(real.record.scale_after)
    beyond = table(
        found["shuffled"].sae, real.sae, vectors, data, torch.from_numpy(split["test"]), real.latents,
        by_columns(real.latents, real.by_dimension), (sizes, sizes), seed=seed,
    )  # fmt: skip
    return found, page(found, beyond)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("sae", metavar="SAE")
    parser.add_argument("--data", default="moralstrength")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--out", type=Path, default=Path("surgery"))
    parser.add_argument("--shares", default=SHARES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", default="default")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--device", help="cpu, cuda, … (default: cuda when there is one)")
    given = parser.parse_args()
    data = load_data(given.data, path=given.path)
    data = data if given.limit is None else data.sample(given.limit)
    train, validation, test = map(float, given.shares.split(","))
    split, model = group_split(data, shares=(train, validation, test)), load_model(given.model, device=given.device)
    sae = load_sae(given.sae, model=model)
    _, text = arms(model, sae, data, split, given.out, settings=given.settings, seed=given.seed)
    write_text(given.out / "surgery.md", text)
    print(f"\n{text}\n{given.out / 'surgery.md'}")


if __name__ == "__main__":
    main()
