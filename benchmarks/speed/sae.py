"""What training through sae_moral costs over SAELens' trainer called directly, and what one pass for all layers saves.

    python benchmarks/speed/sae.py [--data SOURCE] [--path FILE] [--texts 160] [--steps 30] [--rounds 3]

Both trainers get the same vectors, the same SAELens configuration and the same number of steps; SAELens' own is fed
from memory by a shuffled tensor. Seconds are processor seconds, taken in turn, so that a busy machine meets both alike.
A checkpoint of ours also compares train with held-out; its cost is given by itself, and for ten per 2,000 steps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sae_moral import load_data, load_model
from sae_moral.sae.activations import Activations, capture_activations
from sae_moral.sae.train_config import TrainSettings, configure
from sae_moral.sae.train_layer import LayerTraining, progress_bar

MODEL = "smollm2-135m-instruct"


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
    ratio = statistics.median(a / b for a, b in zip(seconds["ours"], seconds["SAELens"], strict=True))
    print(f"{settings.architecture}: {settings.batch} vectors × {latents} latents, {rounds} rounds")
    print(f"  ours {ours:.3f} s per step, SAELens' trainer {theirs:.3f}: ratio {ratio:.3f}")
    print(f"  a checkpoint {checkpoint:.2f} s: with ten per 2,000 steps {ratio + 10 * checkpoint / 2000 / theirs:.3f}")
    return ours, theirs


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
    arguments = parser.parse_args()
    data = load_data(arguments.data, path=arguments.path).sample(arguments.texts)
    layers = [int(layer) for layer in arguments.layers.split(",")]
    model = load_model(MODEL, device="cpu")
    settings = TrainSettings(steps=arguments.steps, checkpoints=0)
    per_step = 0.0
    with tempfile.TemporaryDirectory() as store:
        vectors = capture_activations(model, data, [layers[0]], store=store, granularity="token", progress=False)
        for architecture in arguments.architectures.split(","):
            chosen = replace(settings, architecture=architecture)
            per_step, _ = overhead(vectors, layers[0], chosen, arguments.rounds)
    one_pass(model, data, layers, per_step, TrainSettings().resolved(0).steps or 0)


if __name__ == "__main__":
    main()
