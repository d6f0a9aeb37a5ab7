"""Which latents to operate on: those that correlate with the labels, those that carry the margin, or both.

    python -m benchmarks.replication.choices MODEL SAE --out OUT [--data SOURCE] [--path FILE] [--scenarios N] [--kl KL]

One operation per choice, each writing along the gradient of the chosen words' margins (`output`), and what its write
does to the AUROC of held-out words at equal damage. OUT/choices.md has the table. One seed of surgery each.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.replication.steering import words_of
from benchmarks.replication.surgery import SHARES
from sae_moral import load_data, load_model
from sae_moral.controls.draws import resamples
from sae_moral.data.splits import group_split
from sae_moral.io import write_text
from sae_moral.sae import find_moral_latents, load_sae
from sae_moral.steering import Steering, at_kl, attribution, margin_gradient, measure, written
from sae_moral.steering.margins import drawn, estimate
from sae_moral.surgery import along, operate
from sae_moral.surgery.vectors import latents_of, vectors_of

LIMIT = 8
"""Latents per dimension, as surgery takes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("sae", metavar="SAE", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="moralstrength")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--scenarios", type=int, default=200, help="measure on at most so many held-out ones")
    parser.add_argument("--kl", type=float, default=0.02)
    given = parser.parse_args()
    model, data = load_model(given.model), load_data(given.data, path=given.path)
    train, validation, test = map(float, SHARES.split(","))
    split = group_split(data, shares=(train, validation, test))
    training, held_out = data.subset(split["train"]), data.subset(split["test"]).sample(given.scenarios)
    sae, words = load_sae(given.sae, model=model), words_of(model, training, given.out)
    vectors = vectors_of(model, data.text, sae, store=given.out / "vectors")
    found = find_moral_latents(sae, latents_of(vectors, sae), data, split=split, report=("validation",))
    carried = attribution(model, sae, training, words.learnt)
    write = along(margin_gradient(model, training, sae.layer, words.learnt).vector, "output")
    correlated = found.by_dimension(one_pole=True)
    choices: dict[str, Mapping[str, Sequence[int]]] = {
        "correlation": found.by_dimension(limit=LIMIT, one_pole=True),
        "attribution": carried.by_dimension(LIMIT),
        "correlation, ranked by attribution": carried.by_dimension(LIMIT, among=correlated),
        "attribution, largest half": carried.by_dimension(LIMIT // 2),
    }
    plain, weights = measure(model, held_out, (), words.wordings), resamples(held_out, 1000)

    def aurocs(margins: dict[str, Any]) -> np.ndarray:
        rows = {name: words.rows(name, "held_out") for name in margins}
        kept = [drawn("auroc", own[rows[name]], held_out, weights) for name, own in margins.items() if rows[name]]
        return np.mean(kept, axis=0)

    head = [
        "choice",
        "latents",
        "shared with correlation",
        "they read the pole",
        "reconstruction error",
        "held-out words",
    ]
    lines = [
        f"{given.model}, after block {sae.layer}: held-out words unsteered {aurocs(plain)[0]:.3f}, KL {given.kl:g}, "
        f"{len(held_out)} held-out scenarios.\n",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for name, latents in choices.items():
        chosen = {latent for own in latents.values() for latent in own}
        common = len(chosen & {latent for own in choices["correlation"].values() for latent in own})
        made = operate(sae, latents, model, data, split=split, write=write, store=given.out / "vectors")
        made.save(given.out / name.replace(", ", "-").replace(" ", "-"), overwrite=True)
        rows: dict[str, Any] = {row["statistic"]: row for row in made.record.table if row["group"] == "overall"}
        read, error = rows["reading_auroc"], rows["reconstruction_error"]
        steering = at_kl(model, Steering(written(made), 1.0), given.kl)
        change = estimate(aurocs(measure(model, held_out, steering, words.wordings)) - aurocs(plain))
        said = [name, len(chosen), common, f"{read['before']:.3f} → {read['after']:.3f}"]
        said += [f"{error['after'] / error['before'] - 1:+.1%}", "{:+.3f} [{:+.3f}, {:+.3f}]".format(*change)]
        lines.append(f"| {' | '.join(map(str, said))} |")
        print(lines[-1], flush=True)
    write_text(given.out / "choices.md", "\n".join(lines) + "\n")
    print(given.out / "choices.md")


if __name__ == "__main__":
    main()
