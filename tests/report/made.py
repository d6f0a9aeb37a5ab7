"""Results with planted numbers, whole in what their pages show: a training, an operation, SAEs compared."""

from __future__ import annotations

import dataclasses
from typing import Any

from sae_moral.sae.train import TrainedSaes
from sae_moral.studies.compared_saes import ComparedSaes, ReseedNoise, SaeComparison
from sae_moral.surgery import Operation
from tests.steering.planted import operated, random_sae

METRICS = ("categorical", "gradient", "structural", "dimensional")


def trained(tmp_path: Any, layers: tuple[int, ...] = (3, 7), **changed: Any) -> TrainedSaes:
    """SAEs whose held-out vectors are explained to 0.8 and 0.9 and so on."""
    results: dict[int, Any] = {}
    for i, layer in enumerate(layers):
        side = {"explained_variance": 0.8 + 0.1 * i, "explained_variance_per_dimension": 0.7, "l0": 32.0, "n": 2335}
        history = [
            {"step": 40 * n, "train": 0.1 * n, "held_out": 0.09 * n, "l0": 32.0, "coefficients": {}}
            for n in range(1, 9)
        ]
        results[layer] = {
            "layer": layer,
            "hook_name": f"blocks.{layer}.hook_resid_post",
            "train": {**side, "explained_variance_per_dimension": 0.75, "n": 18455},
            "held_out": side,
            "dead_share": 0.05,
            "d_sae": 9216,
            "vectors_per_latent": 2.0,
            "outliers_left_out": {"train": 19, "held_out": 1},
            "loss_recovered": {
                "recovered": 0.99,
                "clean_nats": 6.1,
                "spliced_nats": 6.2,
                "zero_nats": 14.8,
                "n_tokens": 9,
            },
            "history": history,
            "seconds": 87.5,
            "resumed_at_step": 0,
            "provenance": {
                "granularity": "token",
                "model": {"name": "smollm2-135m-instruct"},
                "data": {"n": 2786, "source": "social-chem-101"},
                "settings": {"architecture": "batchtopk"},
            },
            **changed,
        }
    return TrainedSaes(tmp_path, results)


def change(statistic: str, group: str = "overall", **values: Any) -> Any:
    """A row of an operation's table."""
    row = {"before": 0.6, "after": 0.8, "change": 0.2, "ci_low": 0.1, "ci_high": 0.3, "n": 672}
    return {"statistic": statistic, "group": group, **row, **values}


def recorded(**changed: Any) -> Operation:
    """An operation with everything that its page shows."""
    made = operated(random_sae())
    statistics = ("polarity_margin", "polarity_auroc", "reading_auroc", "explained_variance_per_dimension")
    table = [change(name, group) for name in statistics for group in ("overall", "care", "harm", "care-harm")]
    table += [change("reconstruction_error", before=1000.0, after=1010.0, change=10.0, ci_low=5.0, ci_high=15.0)]
    terms = {"total": 3.0, "reading": 0.5, "polarity": 0.4, "reconstruction": 1.0}
    history: list[Any] = [{"epoch": 0, "train": None, "validation": terms}]
    history += [{"epoch": n, "train": terms, "validation": terms} for n in range(1, 9)]
    written: Any = {"writes": {"representation": 1.0}, "size": 2.0, "longest": 1.42, "gained": [0.1] * 5, "rank": 5}
    record = dataclasses.replace(
        made.record,
        settings={"tolerance": 0.02},
        table=table,
        history=history,
        written=written,
        stopped={"kept_epoch": 3, "epochs": 8, "reason": "no lower validation loss"},
        parts={"train": 1672, "validation": 418, "test": 696},
    )
    return dataclasses.replace(made, record=dataclasses.replace(record, **changed))


def compared(difference: float | None = -0.05, half: float | None = 0.02, saes: int = 2) -> ComparedSaes:
    """SAEs whose latents differ from the stream by so much in every headline."""
    rows = [
        SaeComparison(
            sae=f"someone/a-long-repository-of-saes/layer_{layer}_width_16k",
            sha256=f"{layer:064d}",
            layer=layer,
            d_sae=16384,
            architecture="jumprelu",
            metric=metric,
            statistic="auroc",
            before=0.8,
            after=None if difference is None else 0.8 + difference,
            difference=difference,
            ci_low=None if difference is None or half is None else difference - half,
            ci_high=None if difference is None or half is None else difference + half,
            p_value=0.5,
            verdict="beyond chance",
        )
        for layer in range(saes)
        for metric in METRICS
    ]
    noise = [ReseedNoise(rows[0].sae, 0, ["seed 1"], METRICS[0], "auroc", [0.75, 0.76], 0.01, 0.03)]
    facts: Any = {"name": "gemma-3-270m", "revision": None, "identity": "0", "dtype": "float32"}
    facts |= {"wrapper": "TransformerBridge", "weight_processing": "none", "attached_saes": []}
    facts |= {"n_layers": 18, "d_model": 640}
    return ComparedSaes(rows, facts, "0" * 64, {"protocol": "audited"}, noise)
