"""Are the moral latents of an SAE more than words? Tokens of the vocabulary are put in the place of latents.

    python benchmarks/replication/latents_or_words.py MODEL --saes FOLDER --data SOURCE [--path FILE] --out OUT

For every SAE in FOLDER three tables:

- The rule of `find_moral_latents` on latents, and on tokens: a "latent" per vocabulary item, active on a text to the
  share of its tokens that are this item. Same texts, same selection and report parts, same thresholds.
- Per dimension the latent and the token that are strongest on the selection part, by their partial correlation on the
  held-out part, where neither was chosen.
- How much of a latent's activation, summed over all tokens of all texts, falls on its first and first three vocabulary
  items: 1 is a detector of one word. Of the moral latents, and of as many others that fire as often.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_moral import DIMENSIONS, load_data, load_model
from sae_moral.capture import Representations
from sae_moral.capture.prompts import Prompts, prompts_of
from sae_moral.io import write_text
from sae_moral.sae import (
    LatentSettings,
    LoadedSae,
    MoralLatents,
    find_moral_latents,
    find_moral_latents_by_layer,
    load_saes,
)
from sae_moral.sae.activations import capture_activations
from sae_moral.tables import Table, markdown_table


def identity(width: int) -> Any:
    """An SAE whose latents are its inputs."""
    from sae_lens import SAE

    sae: Any = SAE.from_dict(
        {
            "architecture": "standard",
            "d_in": width,
            "d_sae": width,
            "metadata": {"hook_name": "blocks.0.hook_resid_post"},
        }
    )
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(torch.eye(width) if name.startswith("W_") else torch.zeros_like(parameter))
    return sae


def own_ids(prompts: Prompts) -> list[np.ndarray]:
    """The vocabulary items of each distinct scenario's own tokens, in the order of the token vectors."""
    return [np.asarray(ids[start:stop]) for ids, (start, stop) in zip(prompts.ids, prompts.own, strict=True)]


def of_tokens(data: Any, prompts: Prompts, settings: LatentSettings) -> tuple[MoralLatents, np.ndarray]:
    """The same rule with a vocabulary item per latent, and the items; only those that enough texts have."""
    ids = own_ids(prompts)
    items, texts = np.unique(np.concatenate([np.unique(one) for one in ids]), return_counts=True)
    items = items[texts >= settings.firing]
    share = np.stack([(one[:, None] == items).mean(axis=0) for one in ids]).astype(np.float32)
    vectors = torch.from_numpy(share)
    given = Representations(
        (0,), prompts.row, prompts.length, prompts.total, {"first_token": prompts.first_token}, lambda layer: vectors
    )
    return find_moral_latents(identity(len(items)), given, data, settings=settings), items


@torch.no_grad()
def concentration(sae: LoadedSae, vectors: np.ndarray, ids: np.ndarray, latents: np.ndarray) -> np.ndarray:
    """Shares of each latent's summed activation on its first and its first three vocabulary items [latents, 2]."""
    items, at = np.unique(ids, return_inverse=True)
    total = torch.zeros(len(items), len(latents))
    for rows in np.array_split(np.arange(len(ids)), max(1, len(ids) // 1024)):
        active = sae.encode(torch.from_numpy(np.array(vectors[rows])))[:, torch.from_numpy(latents)].cpu()
        total.index_add_(0, torch.from_numpy(at[rows]), active)
    ordered = total.sort(dim=0, descending=True).values
    return torch.stack([ordered[0], ordered[:3].sum(dim=0)], dim=1).div(ordered.sum(dim=0)[:, None]).numpy()


def alike(found: MoralLatents, moral: np.ndarray, seed: int = 0) -> np.ndarray:
    """For each moral latent another that fires on about as many texts and passes neither rule's test of morality."""
    fired, weak = found.arrays["fired"], found.arrays["audited_class"] == 1
    rng, chosen = np.random.default_rng(seed), []
    for latent in moral:
        near = np.flatnonzero(weak & (np.abs(np.log(np.maximum(fired, 1) / fired[latent])) < 0.1))
        if len(near):
            chosen.append(rng.choice(near))
    return np.array(chosen, dtype=np.int64)


def rule_row(name: str, found: MoralLatents) -> list[str]:
    moral, tested, shares = found.latents(), int(found.arrays["tested"].sum()), found.fractions()
    r = [row["partial_r"] for row in found.rows(moral) if row["partial_r"] is not None]
    null, replicated = shares["audited_null"], shares["audited_replicated"]
    return [
        *(name, f"{tested:,}", f"{len(moral)}", f"{len(moral) / max(tested, 1):.1%}"),
        "–" if null is None else f"{null:.2%}",
        "–" if replicated is None else f"{replicated:.0%}",
        f"{np.median(r):.3f}" if r else "–",
    ]


def best(found: MoralLatents, dimension: int) -> tuple[int, float]:
    """The one that is strongest on the selection part, and its held-out partial correlation."""
    r = np.where(found.arrays["tested"], found.arrays["selection_r"][:, dimension], -np.inf)
    return int(r.argmax()), float(found.arrays["partial_r"][r.argmax(), dimension])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--saes", required=True)
    parser.add_argument("--data", default="moralstrength")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    data, settings = load_data(arguments.data, path=arguments.path), LatentSettings()
    model = load_model(arguments.model)
    saes = load_saes(arguments.saes, model=model)
    found = find_moral_latents_by_layer(saes, model, data, settings=settings)
    prompts = prompts_of(model, data.text)
    words, items = of_tokens(data, prompts, settings)
    stream = capture_activations(model, data, list(saes), store=arguments.out / "tokens", granularity="token")
    ids = np.concatenate(own_ids(prompts))
    by_rule, by_word = [], []
    for layer, one in found.items():
        moral = np.array(one.latents(), dtype=np.int64)
        by_rule.append(rule_row(f"latents of layer {layer}", one))
        cells = []
        for latents in (moral, alike(one, moral)):
            shares = concentration(saes[layer], stream.vectors(layer), ids, latents)
            cells += [f"{value:.2f}" for value in np.median(shares, axis=0)] if len(latents) else ["–", "–"]
        by_word.append([str(layer), *cells])
    by_rule.append(rule_row("tokens", words))
    strongest = {f"layer {layer}": [best(one, d) for d in range(len(DIMENSIONS))] for layer, one in found.items()}
    strongest["token"] = [best(words, d) for d in range(len(DIMENSIONS))]
    spelled = [model.tokenizer.decode([int(items[token])]).strip() for token, _ in strongest["token"]]
    by_dimension = [
        [name, *(f"{column[d][1]:.3f}" for column in strongest.values()), f"`{spelled[d]}`"]
        for d, name in enumerate(DIMENSIONS)
    ]
    by_dimension.append(["mean", *(f"{np.mean([r for _, r in column]):.3f}" for column in strongest.values()), ""])
    text = "\n\n".join(
        [
            f"{arguments.model}, {len(data):,} scenarios of {data.provenance.get('source')}; {date.today()}.",
            markdown_table(Table(["", "tested", "moral", "share", "permuted", "replicated", "held-out r"], by_rule)),
            markdown_table(Table(["dimension", *strongest, "its token"], by_dimension)),
            markdown_table(
                Table(["layer", "moral: first item", "first three", "others: first item", "first three"], by_word)
            ),
        ]
    )
    write_text(arguments.out / "words.md", f"{text}\n")
    print(text)


if __name__ == "__main__":
    main()
