"""SAEs trained on moral scenarios: two granularities × architectures of one layer; many layers of the default.

    python benchmarks/replication/saes.py --out saes [--data SOURCE] [--path FILE] [--model NAME] [--layer 15]
        [--layers 5,10,15,20,25] [--architectures topk batchtopk standard] [--steps standard=4000] [--device cuda]

Trains what OUT lacks (an interrupted run goes on where it was), loads every SAE again in a fresh process and compares
the latents bit by bit, and writes OUT/saes.md and OUT/saes.png.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from sae_lens import SAE

from sae_moral import load_data, load_model
from sae_moral.sae import TrainedSaes, TrainSettings, train_saes

GRANULARITIES = ("token", "scenario")
ARCHITECTURES = ["topk", "batchtopk", "standard"]
COLUMNS = (
    *("held-out", "train", "per dimension", "L0", "dead", "loss recovered", "vectors / latent", "steps", "seconds"),
    "same",
)
FRESH = """
import sys, torch
from safetensors.torch import load_file, save_file
from sae_lens import SAE
x = load_file(sys.argv[2])["x"]
save_file({"latents": SAE.load_from_disk(sys.argv[1]).encode(x).contiguous()}, sys.argv[3])
"""


def same_when_loaded_again(folder: Path, scratch: Path) -> bool:
    """Whether SAELens, in a process of its own, reads the folder and gives the latents it gives here, bit by bit."""
    from safetensors.torch import load_file, save_file

    sae = SAE.load_from_disk(folder)
    x = torch.randn(256, sae.cfg.d_in, generator=torch.Generator().manual_seed(0)) + sae.b_dec.detach()
    save_file({"x": x.contiguous()}, scratch / "x.safetensors")
    subprocess.run(
        [sys.executable, "-c", FRESH, folder, scratch / "x.safetensors", scratch / "out.safetensors"], check=True
    )
    return torch.equal(load_file(scratch / "out.safetensors")["latents"], sae.encode(x))


def cells(result: dict[str, Any], same: bool) -> list[str]:
    """One row of the tables."""
    held, recovered = result["held_out"], (result.get("loss_recovered") or {}).get("recovered")
    return [
        f"{held['explained_variance']:.3f}",
        f"{result['train']['explained_variance']:.3f}",
        f"{held['explained_variance_per_dimension']:.3f}",
        f"{held['l0']:.1f}",
        f"{result['dead_share']:.1%}",
        "–" if recovered is None else f"{recovered:.3f}",
        f"{result['vectors_per_latent']:.2f}",
        f"{result['history'][-1]['step']:,}",
        f"{result['seconds']:.0f}",
        "yes" if same else "NO",
    ]


def table(rows: dict[tuple[str, ...], list[str]], names: tuple[str, ...]) -> str:
    """As Markdown."""
    header = [*names, *COLUMNS]
    body = [f"| {' | '.join([*key, *row])} |" for key, row in rows.items()]
    return "\n".join([f"| {' | '.join(header)} |", "|" + "---|" * len(header), *body])


def figure(kinds: dict[tuple[str, str], dict[str, Any]], architectures: list[str]) -> Figure:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--data", default="moralstrength")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--layer", type=int, default=15, help="of the six kinds")
    parser.add_argument("--layers", default="5,10,15,20,25", help="of the default kind")
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, metavar="NAME", help="of the kinds")
    parser.add_argument(
        "--steps", nargs="*", default=[], metavar="NAME=N", help="steps of an architecture (default: train-sae's)"
    )
    parser.add_argument("--device", help="cpu, cuda, … (default: cuda when there is one)")
    arguments = parser.parse_args()
    model, data = load_model(arguments.model, device=arguments.device), load_data(arguments.data, path=arguments.path)
    steps = {name: int(n) for name, n in (given.split("=") for given in arguments.steps)}

    def trained(name: str, layers: Any, **settings: Any) -> TrainedSaes:
        return train_saes(model, data, layers, TrainSettings(**settings), out=arguments.out / name)

    arguments.out.mkdir(parents=True, exist_ok=True)
    many = trained("layers", arguments.layers)
    kinds = {
        (g, a): trained(f"{g}-{a}", arguments.layer, granularity=g, architecture=a, steps=steps.get(a))
        for g in GRANULARITIES
        for a in arguments.architectures
    }
    results = {key: found.results[arguments.layer] for key, found in kinds.items()}
    by_layer = {
        (str(layer),): cells(result, same_when_loaded_again(many.path(layer), arguments.out))
        for layer, result in many.results.items()
    }
    by_kind = {
        key: cells(result, same_when_loaded_again(kinds[key].path(arguments.layer), arguments.out))
        for key, result in results.items()
    }
    figure(results, arguments.architectures).savefig(arguments.out / "saes.png", dpi=130)
    settings = json.loads((many.folder / "training.json").read_text(encoding="utf8"))["key"]
    where = f"{platform.machine()}, {torch.get_num_threads()} threads"
    if model.cfg.device != "cpu":
        where = torch.cuda.get_device_name()
    text = f"""# SAEs trained on moral scenarios

{arguments.model}, {len(data):,} scenarios of {data.provenance.get("source")}; {date.today()}, {where}.
Made by `python benchmarks/replication/saes.py`. Explained variance is of held-out texts; `same`: loaded by SAELens in a
fresh process, the latents are equal bit by bit.

## Layers, the default ({settings["architecture"]}, {settings["granularity"]}, ×{settings["expansion"]})

{table(by_layer, ("layer",))}

## Kinds, layer {arguments.layer}

{table(by_kind, ("granularity", "architecture"))}

![explained variance by step](saes.png)
"""
    (arguments.out / "saes.md").write_text(text, encoding="utf8")
    print(text)


if __name__ == "__main__":
    main()
