"""What a training step costs: ours, SAELens', each of our shortcuts alone, and other trainers; what training through
sae_moral costs over SAELens' trainer called directly; and what one pass for all layers saves.

    python benchmarks/speed/sae.py [--data SOURCE] [--path FILE] [--texts 160] [--steps 30] [--rounds 3] [--k 32]

All get the same vectors, and those that are SAELens' the same configuration and weights to begin with; SAELens' own
trainer is fed from memory by a shuffled tensor. Seconds are processor seconds, taken in turn, so that a busy machine
meets all alike. Steps are compared on one thread, 200 of them, and so are the weights that they leave: once without
dead latents, because other trainers (peers.txt), which have their own losses and defaults, count none in so short a
training, and once with the auxiliary loss as we configure it. `rows in reverse` is SAELens' step on the same vectors
in the opposite order: the same formula once more, with other rounding.
A checkpoint of ours also compares train with held-out; its cost is given by itself, and for ten per 2,000 steps.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sae_moral import load_data, load_model
from sae_moral.sae.activations import Activations, capture_activations
from sae_moral.sae.sparse_step import fused_adam
from sae_moral.sae.train_config import SPARSE_STEP, TrainSettings, configure
from sae_moral.sae.train_layer import LayerTraining, progress_bar

MODEL = "smollm2-135m-instruct"
TURNS = 10
"""In which every arm takes its steps."""
REVERSED = "SAELens, rows in reverse"
Step = Callable[[torch.Tensor], Any]


def shuffled(vectors: torch.Tensor, batch: int) -> Iterator[torch.Tensor]:
    """Epoch after epoch from memory, the last short batch dropped."""
    while True:
        for index in torch.randperm(len(vectors)).split(batch):
            if len(index) == batch:
                yield vectors[index]


def direct(training: LayerTraining, activations: Activations, settings: TrainSettings) -> Any:
    """SAELens' trainer on the same vectors, already centred and scaled, without checkpoints."""
    from sae_lens.saes.sae import TrainingSAE
    from sae_lens.training.sae_trainer import SAETrainer

    config = configure(activations, settings)
    sae = TrainingSAE.from_dict(config.saes[training.layer].to_dict())
    sae.load_state_dict(training.sae.state_dict())
    vectors = training.apply(torch.from_numpy(training.vectors[training.train]))
    return SAETrainer(config.trainer, sae, shuffled(vectors, settings.batch))


def overhead(activations: Activations, layer: int, settings: TrainSettings, rounds: int) -> tuple[float, float]:
    """Processor seconds per step, ours and SAELens' own; prints them with the ratio."""
    seconds: dict[str, list[float]] = {"ours": [], "SAELens": []}
    checkpoint, latents = 0.0, configure(activations, settings).saes[layer].d_sae
    for turn in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            training = LayerTraining(
                activations, layer, settings, configure(activations, settings), checkpoints=Path(folder)
            )
            trainers = {"ours": training.trainer, "SAELens": direct(training, activations, settings)}
            for name in sorted(trainers, reverse=bool(turn % 2)):
                with progress_bar(name, False):
                    started = time.process_time()
                    trainers[name].fit()
                    seconds[name].append((time.process_time() - started) / trainers[name].n_training_steps)
            started = time.process_time()
            training.checkpoint()
            checkpoint = time.process_time() - started
    ours, theirs = (statistics.median(seconds[name]) for name in ("ours", "SAELens"))
    ratio = _ratio(seconds["ours"], seconds["SAELens"])
    print(f"{settings.architecture}: {settings.batch} vectors × {latents} latents, {rounds} rounds")
    print(f"  ours {ours:.3f} s per step, SAELens' trainer {theirs:.3f}: ratio {ratio:.3f}")
    print(f"  a checkpoint {checkpoint:.2f} s: with ten per 2,000 steps {ratio + 10 * checkpoint / 2000 / theirs:.3f}")
    return ours, theirs


def trainers(activations: Activations, layer: int, settings: TrainSettings) -> dict[str, Any]:
    """SAELens' trainers of the arms that are compared by their weights: the exact way first, then ours."""
    from sae_lens.training.sae_trainer import SAETrainer

    def training(**options: Any) -> LayerTraining:
        chosen = replace(settings, **options)
        return LayerTraining(activations, layer, chosen, configure(activations, chosen))

    sparse = training()
    arms = {
        "SAELens": training(exact_step=True).trainer,
        "ours": training().trainer,
        REVERSED: training(exact_step=True).trainer,
        "ours, sparse products only": SAETrainer(sparse.trainer.cfg, sparse.sae, sparse.batches),
    }
    with fused_adam():
        arms["ours, fused Adam only"] = training(exact_step=True).trainer
    return arms


def saelens_step(trainer: Any, *, reverse: bool = False) -> Step:
    """What `fit` does with a batch."""

    def step(batch: torch.Tensor) -> None:
        trainer.step(batch.flip(0) if reverse else batch)
        trainer.n_training_steps += 1

    return step


def sparsify_step(d: int, latents: int, k: int, optimiser: str, lr: float, *, unit_norm: bool = True) -> Step:
    """What the trainer of eai-sparsify does with a batch."""
    from schedulefree import ScheduleFreeWrapper  # pyright: ignore[reportMissingImports]
    from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingImports]
    from sparsify.sign_sgd import SignSGD  # pyright: ignore[reportMissingImports]

    config = SparseCoderConfig(num_latents=latents, k=k, normalize_decoder=unit_norm)
    coder = SparseCoder(d, config, dtype=torch.float32)
    if optimiser == "adam":
        optimizer: Any = torch.optim.Adam(coder.parameters(), lr=lr)
    else:
        optimizer = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=lr), momentum=0.95)
        optimizer.train()
    fired = torch.zeros(latents, dtype=torch.bool)

    def step(batch: torch.Tensor) -> None:
        if unit_norm:
            coder.set_decoder_norm_to_unit_norm()
        found = coder(batch)
        fired[found.latent_indices.flatten()] = True
        found.fvu.backward()
        if unit_norm:
            coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peers(d: int, latents: int, k: int, lr: float) -> dict[str, Step]:
    """Steps of other trainers, as far as they are installed."""
    arms: dict[str, Step] = {}
    with redirect_stdout(sys.stderr):  # both say at import what they lack
        if importlib.util.find_spec("sparsify"):
            arms["eai-sparsify (signum, its default)"] = sparsify_step(d, latents, k, "signum", lr)
            arms["eai-sparsify, Adam"] = sparsify_step(d, latents, k, "adam", lr)
            arms["eai-sparsify, Adam, free norms"] = sparsify_step(d, latents, k, "adam", lr, unit_norm=False)
        if importlib.util.find_spec("dictionary_learning"):
            from dictionary_learning.trainers.top_k import TopKTrainer  # pyright: ignore[reportMissingImports]

            options = {"layer": 0, "lm_name": "", "lr": lr, "warmup_steps": 10, "device": "cpu"}
            other = TopKTrainer(steps=1000, activation_dim=d, dict_size=latents, k=k, **options)
            arms["dictionary_learning"] = lambda batch: other.update(1, batch)
    return arms


def steps(activations: Activations, layer: int, settings: TrainSettings, compared: int) -> None:
    """Milliseconds per step of every arm, with ratios; then how far the weights of each are from SAELens'."""
    of_saelens = trainers(activations, layer, settings)
    source = LayerTraining(activations, layer, settings, configure(activations, settings))
    (latents, d), begun = source.sae.W_dec.shape, {n: p.detach() for n, p in source.sae.named_parameters()}
    arms = {name: saelens_step(trainer, reverse=name == REVERSED) for name, trainer in of_saelens.items()}
    window = of_saelens["ours"].cfg.dead_feature_window
    if settings.architecture == "topk" and window > compared:
        arms |= peers(d, latents, round(settings.target_l0), settings.lr)
    print(f"{settings.architecture}: steps of {settings.batch} vectors × {d} × {latents} latents, on one thread")
    print(f"  L0 {settings.target_l0:g}, dead after {window} steps, {compared} steps in {TURNS} turns", flush=True)
    dead: list[int] = []
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(TURNS):
        batches = [next(source.batches) for _ in range(compared // TURNS)]
        # The last round goes in order, so that an arm that ends has what it is compared with.
        for name in sorted(arms, key=list(arms).index, reverse=(TURNS - turn) % 2 == 0):
            started = time.process_time()
            for batch in batches:
                arms[name](batch)
                if name == "ours":
                    dead.append(int(of_saelens[name].dead_neurons.sum()))
            seconds[name].append((time.process_time() - started) / len(batches))
            if turn == TURNS - 1:
                took = f"{1000 * statistics.median(seconds[name]):6.1f} ms"
                beside = [other for other in ("SAELens", "ours") if len(seconds[other]) == TURNS and other != name]
                ratios = "".join(f"  {_ratio(seconds[name], seconds[of]):5.2f} × {of}" for of in beside)
                print(f"  {name:<36} {took}{ratios}", flush=True)
    print(f"  dead latents: {statistics.median(dead):g} in the median step, at most {max(dead)}")
    exact = dict(of_saelens.pop("SAELens").sae.named_parameters())
    moved = max(float((exact[name] - value).detach().abs().max()) for name, value in begun.items())
    print(f"  weights after {compared} steps, which moved them by up to {moved:.2g}; largest difference from SAELens',")
    print("  and share of weights that differ by more than 1e-5:")
    for name, trainer in of_saelens.items():
        apart = [(p - exact[of]).detach().abs().flatten() for of, p in trainer.sae.named_parameters()]
        differences = torch.cat(apart)
        print(f"  {name:<36} {differences.max():.1e}  {(differences > 1e-5).float().mean():.1e}", flush=True)


def _ratio(seconds: list[float], of: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(seconds, of, strict=True))


def one_pass(model: Any, data: Any, layers: list[int], per_step: float, steps: int) -> None:
    """Processor seconds of L layers in one go against L runs of one layer."""
    seconds = []
    for chosen in (layers, *([layer] for layer in layers)):
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            capture_activations(model, data, chosen, store=folder, granularity="token", progress=False)
            seconds.append(time.process_time() - started)
    together, alone = seconds[0], sum(seconds[1:])
    training = len(layers) * per_step * steps
    print(f"{len(layers)} layers of {len(data)} scenarios: vectors {together:.1f} s in one pass, {alone:.1f} s in")
    print(f"  {len(layers)} passes: factor {alone / together:.2f}; with {steps} training steps per layer")
    factor = (alone + training) / (together + training)
    print(f"  {together + training:.0f} s against {alone + training:.0f} s: factor {factor:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="moralstrength", help="a source or a table (default: %(default)s)")
    parser.add_argument("--path", type=Path, help="where the file of a named source is")
    parser.add_argument("--texts", type=int, default=160)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", default="5,10,15,20,25")
    parser.add_argument("--architectures", default="topk")
    parser.add_argument("--k", type=float, default=32, help="active latents where steps are compared")
    parser.add_argument("--compared", type=int, default=200, help="steps that are compared (default: %(default)s)")
    parser.add_argument("--expansion", type=int, default=TrainSettings.expansion, help="default: %(default)s")
    parser.add_argument("--only-steps", action="store_true", help="leave out what is not a comparison of steps")
    arguments = parser.parse_args()
    data = load_data(arguments.data, path=arguments.path).sample(arguments.texts)
    layers = [int(layer) for layer in arguments.layers.split(",")]
    model = load_model(MODEL, device="cpu")
    settings = TrainSettings(steps=arguments.steps, checkpoints=0, expansion=arguments.expansion)
    per_step = 0.0
    with tempfile.TemporaryDirectory() as store:
        vectors = capture_activations(model, data, [layers[0]], store=store, granularity="token", progress=False)
        for architecture in arguments.architectures.split(","):
            chosen = replace(settings, architecture=architecture)
            if architecture in SPARSE_STEP:
                threads = torch.get_num_threads()
                torch.set_num_threads(1)
                for options in ({"dead_feature_window": arguments.compared + 1}, {}):
                    of_steps = replace(chosen, target_l0=arguments.k, steps=None, trainer_options=options)
                    steps(vectors, layers[0], of_steps, arguments.compared)
                torch.set_num_threads(threads)
            if not arguments.only_steps:
                per_step, _ = overhead(vectors, layers[0], chosen, arguments.rounds)
    if arguments.only_steps:
        return
    one_pass(model, data, layers, per_step, TrainSettings().resolved(0).steps or 0)


if __name__ == "__main__":
    main()
