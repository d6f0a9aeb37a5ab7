"""What a surgery's step costs against one through the whole SAE.

    python benchmarks/speed/surgery.py [--width 65536] [--d 576] [--k 200] [--batch 256] [--rounds 3] [--quick]

Both compute the same six terms of the same loss on the same vectors and its gradient. The whole SAE runs through
SAELens' own `encode` and `decode`, and its gradients of the frozen latents are thrown away, as a mask would. The
optimiser's step is left out of both. Processor seconds, taken in turn, so that a busy machine meets both alike.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch import Tensor

from sae_moral.data.moral_data import from_records
from sae_moral.foundations import DIMENSIONS
from sae_moral.sae.load import LoadedSae, load_sae
from sae_moral.surgery import get_settings
from sae_moral.surgery.fit import Fit
from sae_moral.surgery.operation import Rows
from sae_moral.surgery.part import Part
from sae_moral.surgery.terms import TERMS, Batch, Labels, by_columns, means, term_values
from sae_moral.surgery.vectors import Vectors


def random_sae(architecture: str, d: int, width: int) -> LoadedSae:
    """A tied SAE of random unit rows, its encoder scaled so that ReLU latents reconstruct."""
    from sae_lens import SAE

    about = {"hook_name": "blocks.0.hook_resid_post"}
    made = SAE.from_dict({"architecture": architecture, "d_in": d, "d_sae": width, "k": 64, "metadata": about})
    g = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(width, d, generator=g), dim=1)
    made.W_dec.data, made.W_enc.data = rows, 2 * d / width * rows.T.contiguous()
    return load_sae(made)


def prepared(sae: LoadedSae, k: int, batch: int) -> Fit:
    """A surgery of the k latents that fire most often, on `batch` scenarios with labels."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(2 * batch):
        vector = np.zeros(len(DIMENSIONS))
        vector[i % 10] = rng.choice([0.25, 0.5, 1.0])
        records.append((f"s{i}", f"scenario {i}", vector, i % 10 // 2))
    data, index = from_records(records, {"source": "random"}), torch.arange(2 * batch)
    x = torch.randn(2 * batch, sae.d_in, generator=torch.Generator().manual_seed(1))
    vectors = Vectors(x, torch.arange(2 * batch + 1), index, np.ones(2 * batch, dtype=np.int64), {})
    latents = (sae.encode(x[:batch]) > 0).sum(dim=0).topk(k).indices.sort().values
    columns = by_columns(latents, {name: latents[i::10].tolist() for i, name in enumerate(DIMENSIONS)})
    parts = {"train": index[:batch], "validation": index[batch:]}
    settings = get_settings("default", form="paper", leak=0.0)
    return Fit(Part(sae, latents), vectors, Labels.of(data, x.device), parts, columns, settings)


def through_k(fit: Fit) -> Tensor:
    """A step of ours; the gradient of W_enc."""
    rows: Rows = {name: value.clone().requires_grad_() for name, value in fit.part.start.items()}
    fit.total(fit.terms(rows, "train")).backward()
    gradient = rows["W_enc"].grad
    assert gradient is not None
    return gradient


def through_all(fit: Fit, sae: LoadedSae) -> Tensor:
    """The same through the whole SAE; the operated latents' part of the gradient of W_enc."""
    sae.sae.requires_grad_(True).zero_grad()
    records = fit.records["train"]
    x = fit.vectors.x[records]
    latents = sae.sae.encode(x)
    chosen = latents[:, fit.part.latents]
    settings, of = fit.settings, means(chosen, fit.columns)
    margins = settings.polarity_margin, settings.prototype_margin
    whole = Batch(x, sae.sae.decode(latents), 1.0, chosen, of, fit.labels.at(records), settings.relative, *margins)
    fit.total(term_values(whole, fit.columns, TERMS)).backward()
    return sae.sae.W_enc.grad[:, fit.part.latents]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=65536)
    parser.add_argument("--d", type=int, default=576)
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--architectures", default="standard,topk")
    parser.add_argument("--quick", action="store_true", help="a small SAE, one round: does it run?")
    given = parser.parse_args()
    torch.set_num_threads(1)  # processor seconds would count threads that wait
    if given.quick:
        given.width, given.d, given.k, given.batch, given.rounds = 4096, 64, 50, 64, 1
    for architecture in given.architectures.split(","):
        sae = random_sae(architecture, given.d, given.width)
        fit = prepared(sae, given.k, given.batch)
        steps = {"k": lambda fit=fit: through_k(fit), "all": lambda fit=fit, sae=sae: through_all(fit, sae)}
        seconds: dict[str, list[float]] = {"k": [], "all": []}
        gradients = {name: step() for name, step in steps.items()}  # also warms up
        worst = float((gradients["k"] - gradients["all"]).abs().max() / gradients["all"].abs().max())
        for turn in range(given.rounds):
            for name in sorted(steps, reverse=bool(turn % 2)):
                started = time.process_time()
                steps[name]()
                seconds[name].append(time.process_time() - started)
        ours, whole = (statistics.median(seconds[name]) for name in ("k", "all"))
        print(f"{architecture}: {given.k} of {given.width} latents, d {given.d}, {given.batch} vectors a step")
        print(f"  ours {1000 * ours:.1f} ms, through the whole SAE {1000 * whole:.0f} ms: {whole / ours:.0f}× cheaper")
        print(f"  gradients differ by {worst:.1e} of the largest")


if __name__ == "__main__":
    main()
