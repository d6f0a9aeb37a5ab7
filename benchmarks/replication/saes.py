"""SAEs trained on moral scenarios: two granularities × architectures of one layer; many layers of the default.

    python benchmarks/replication/saes.py --out saes [--data SOURCE] [--path FILE] [--limit N] [--model NAME]
        [--layers 5,10,15,20,25] [--layer 15] [--architectures topk batchtopk standard] [--steps standard=4000]
        [--device cuda]

Trains what OUT lacks (an interrupted run goes on where it was), loads every SAE again in a fresh process and compares
the latents bit by bit, and writes OUT/layers.md, OUT/kinds.md and OUT/kinds.png. `--layers ""` leaves the first out,
`--architectures` without a name the second.

TopK of any kind sets its number of active latents, and the default number of steps is theirs. A sparsity loss has to
push latents down to that number on the way: it gets more steps where they are cheap, on a GPU; elsewhere ask with
`--steps`.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from sae_lens import SAE
from safetensors.torch import load_file, save_file

from sae_moral import load_data, load_model
from sae_moral.io import staged, write_text
from sae_moral.sae import TrainedSaes, TrainSettings, train_saes
from sae_moral.sae.train_layer import TrainedSae
from sae_moral.tables import Table, markdown_table

GRANULARITIES = ("token", "scenario")
ARCHITECTURES = ["topk", "batchtopk", "matryoshka_batchtopk", "jumprelu", "standard"]
STEPS_ON_A_GPU = {"jumprelu": 2000, "standard": 2000}
COLUMNS = (
    *("held-out", "train", "per dimension", "L0", "dead", "loss recovered", "vectors / latent", "steps", "seconds"),
    "same",
)
FRESH = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from sae_lens import SAE
for folder in sys.argv[2:]:
    kept = load_file(Path(sys.argv[1], folder.replace("/", "-")))
    kept["again"] = SAE.load_from_disk(folder).encode(kept["x"]).contiguous()
    save_file(kept, Path(sys.argv[1], folder.replace("/", "-")))
"""


@torch.no_grad()
def same_when_loaded_again(folders: list[Path], scratch: Path) -> dict[Path, bool]:
    """Whether SAELens, in a process of its own, reads each folder and gives the latents it gives here, bit by bit."""
    scratch.mkdir(exist_ok=True)
    kept = {folder: scratch / str(folder).replace("/", "-") for folder in folders}
    for folder, file in kept.items():
        sae = SAE.load_from_disk(folder)
        noise = torch.randn(256, sae.cfg.d_in, generator=torch.Generator().manual_seed(0))
        x = sae.b_dec + noise * sae.b_dec.square().mean().sqrt()  # about as far from the mean as the vectors are
        latents = sae.encode(x)
        if not latents.any():
            raise ValueError(f"no latent of {folder} fires on the vectors it is compared on")
        save_file({"x": x.contiguous(), "here": latents.contiguous()}, file)
    subprocess.run([sys.executable, "-c", FRESH, scratch, *folders], check=True)
    found = {folder: load_file(file) for folder, file in kept.items()}
    return {folder: torch.equal(tensors["here"], tensors["again"]) for folder, tensors in found.items()}


def cells(result: TrainedSae, same: bool) -> list[str]:
    """One row of the tables."""
    train, held, spliced = result["train"], result["held_out"], result["loss_recovered"]
    return [
        number(held["explained_variance"]),
        number(train["explained_variance"]),
        number(held["explained_variance_per_dimension"]),
        f"{held['l0']:.1f}",
        f"{result['dead_share']:.1%}",
        number(None if spliced is None else spliced["recovered"]),
        f"{result['vectors_per_latent']:.2f}",
        f"{result['provenance']['settings']['steps']:,}",
        f"{result['seconds']:.0f}",
        "yes" if same else "NO",
    ]


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def figure(kinds: dict[tuple[str, ...], TrainedSae], architectures: list[str]) -> Figure:
    """Explained variance of train and held-out vectors over the steps, a panel per granularity."""
    drawn = Figure(figsize=(9, 3.4), layout="constrained")
    for panel, granularity in zip(drawn.subplots(1, 2, sharey=True), GRANULARITIES, strict=True):
        for i, architecture in enumerate(architectures):
            history = kinds[granularity, architecture]["history"]
            steps = [entry["step"] for entry in history]
            panel.plot(steps, [entry["held_out"] for entry in history], color=f"C{i}", label=architecture)
            panel.plot(steps, [entry["train"] for entry in history], color=f"C{i}", linestyle=":", linewidth=1)
        panel.axhline(0.8, color="#9aa1ab", linewidth=0.8)
        panel.set(title=granularity, xlabel="step", xscale="log", ylim=(0, 1))
    drawn.axes[0].set_ylabel("explained variance (held out; train dotted)")
    drawn.axes[0].legend(frameon=False)
    return drawn


Trained = tuple[Path, TrainedSae]
"""The folder of an SAE and what its training found."""


def page(trained: dict[tuple[str, ...], Trained], names: tuple[str, ...], about: str, scratch: Path) -> str:
    """What was run, and a row per SAE."""
    same = same_when_loaded_again([folder for folder, _ in trained.values()], scratch)
    rows = {key: cells(result, same[folder]) for key, (folder, result) in trained.items()}
    made = Table([*names, *COLUMNS], [[*key, *row] for key, row in rows.items()], len(names))
    return f"{about}\n\n{markdown_table(made)}\n"


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--data", default="moralstrength")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--limit", type=int, metavar="N", help="use at most so many scenarios")
    parser.add_argument("--layer", type=int, default=15, help="of the kinds")
    parser.add_argument("--layers", default="5,10,15,20,25", help="of the default kind")
    parser.add_argument("--architectures", nargs="*", default=ARCHITECTURES, metavar="NAME", help="of the kinds")
    parser.add_argument(
        "--steps", nargs="*", default=[], metavar="NAME=N", help="steps of an architecture (default: train-sae's)"
    )
    parser.add_argument("--device", help="cpu, cuda, … (default: cuda when there is one)")
    return parser.parse_args()


def main() -> None:
    arguments = arguments_of()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    model, data = load_model(arguments.model, device=arguments.device), load_data(arguments.data, path=arguments.path)
    data = data if arguments.limit is None else data.sample(arguments.limit)
    cuda = torch.device(model.cfg.device or "cpu").type == "cuda"
    given = {name: int(n) for name, n in (pair.split("=") for pair in arguments.steps)}
    steps = {**(STEPS_ON_A_GPU if cuda else {}), **given}
    where = torch.cuda.get_device_name() if cuda else platform.machine()
    about = f"{arguments.model}, {len(data):,} scenarios of {data.provenance.get('source')}; {date.today()}, {where}."

    def trained(name: str, layers: Any, **settings: Any) -> TrainedSaes:
        return train_saes(model, data, layers, TrainSettings(**settings), out=out / name)

    if arguments.layers:
        many = trained("layers", arguments.layers)
        rows = {(str(layer),): (many.path(layer), result) for layer, result in many.results.items()}
        text = page(rows, ("layer",), about, out / "compared")
        write_text(out / "layers.md", text)
        print(text)
    if arguments.architectures:
        rows = {}
        for g in GRANULARITIES:
            for a in arguments.architectures:
                one = trained(f"{g}-{a}", arguments.layer, granularity=g, architecture=a, steps=steps.get(a))
                rows[g, a] = one.path(arguments.layer), one.results[arguments.layer]
        text = page(rows, ("granularity", "architecture"), f"{about} Layer {arguments.layer}.", out / "compared")
        drawn = figure({key: result for key, (_, result) in rows.items()}, arguments.architectures)
        with staged(out / "kinds.png") as temporary:
            drawn.savefig(temporary, dpi=130)
        write_text(out / "kinds.md", f"{text}\n![Explained variance by step](kinds.png)\n")
        print(text)


if __name__ == "__main__":
    main()
