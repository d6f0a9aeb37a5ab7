"""The model card of SAEs trained or operated here: what they are of, how good they are, how to load them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_moral.results import OVERALL
from sae_moral.sae.train_layer import TrainedSae
from sae_moral.surgery.operation import Operation
from sae_moral.tables import MISSING, Table, markdown_table

TAGS = ["saelens", "sparse-autoencoder", "sae-moral"]


@dataclass(frozen=True)
class Described:
    """What a card says of one SAE.

    Attributes:
        sae_id: its folder in the repository.
        what: one sentence.
        config: SAELens' `cfg.json`.
        data: provenance of the scenarios.
        facts: name → value, one line each.
        quality: how good it is, on scenarios that took no part; a table with its caption.
    """

    sae_id: str
    what: str
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    facts: Mapping[str, Any]
    quality: tuple[str, Table]

    @property
    def model(self) -> str:
        """The model it is of."""
        return str(self.config.get("metadata", {}).get("model_name") or MISSING)


def of_trained(sae_id: str, result: TrainedSae, config: Mapping[str, Any]) -> Described:
    """A trained SAE."""
    about, sides = result["provenance"], ("train", "held_out")
    names = ("explained_variance", "explained_variance_per_dimension", "l0", "n")
    rows = [[name.replace("_", " "), *(_words(result[side][name]) for side in sides)] for name in names]
    recovered = result["loss_recovered"]
    rows += [["dead latents, of all", MISSING, _words(result["dead_share"])]]
    rows += [["next-token loss recovered", MISSING, _words(recovered and recovered["recovered"])]]
    settings = about.get("settings", {})
    facts = {
        "trained on": f"{about.get('granularity', MISSING)} vectors, {result['train']['n']:,} to train on",
        **_prompts(config, settings.get("protocol", {})),
        **{name: settings.get(name) for name in ("steps", "batch", "lr", "normalise", "outliers", "init", "seed")},
        "revision of the model": about.get("model", {}).get("revision"),
    }
    what = "A sparse autoencoder of the residual stream on moral scenarios."
    quality = "On training and held-out vectors", Table(["", "train", "held out"], rows)
    return Described(sae_id, what, config, about.get("data", {}), facts, quality)


def of_operation(sae_id: str, operation: Operation, config: Mapping[str, Any]) -> Described:
    """An operated SAE."""
    record = operation.record
    rows = [
        [
            row["statistic"].replace("_", " "),
            *(_words(row[name]) for name in ("before", "after", "change")),
            f"{_words(row['ci_low'])} … {_words(row['ci_high'])}",
        ]
        for row in record.table
        if row["group"] == OVERALL
    ]
    latents = {name: ", ".join(map(str, of)) for name, of in operation.by_dimension.items()}
    facts = {
        "the SAE before": f"{record.source} (sha256 {record.sha256['before'][:16]}…)",
        "control": record.control if record.control != "none" else None,
        "weights changed": f"{record.weights['share_changed']:.2%}",
        "decoder rows gained": ", ".join(record.written["writes"]) if record.written else None,
        **{f"latents of {name}": of for name, of in latents.items()},
        **_prompts(config, record.capture),
        "seed": record.seed,
    }
    what = (
        f"A sparse autoencoder of which {len(operation.latents)} moral latents were trained on moral labels, and "
        "nothing else; `before.safetensors` holds them as they were."
    )
    header = ["", "before", "after", "change", "95 % interval"]
    return Described(sae_id, what, config, record.data, facts, ("On scenarios that took no part", Table(header, rows)))


def card(saes: Sequence[Described], repo_id: str, licence: str | None, neuronpedia: Mapping[str, str]) -> str:
    """The card of a repository, or of one SAE's folder.

    Args:
        saes: at least one.
        repo_id: where it will be.
        licence: an identifier of the hub's list, e.g. `mit`; None where none is given.
        neuronpedia: by SAE, its place there.
    """
    from huggingface_hub import ModelCardData

    models = sorted({one.model for one in saes})
    head = ModelCardData(
        license=licence,
        library_name="saelens",
        tags=TAGS,
        base_model=[name for name in models if "/" in name] or None,
    )
    parts = [f"---\n{head.to_yaml()}\n---", f"# SAEs of {', '.join(models)}"]
    parts += [section for one in saes for section in _sections(one, neuronpedia.get(one.sae_id))]
    return "\n\n".join([*parts, _loading(saes[0], repo_id), _licence(saes, licence)]) + "\n"


def _sections(one: Described, neuronpedia: str | None) -> list[str]:
    config, data = one.config, one.data
    told = {
        "model": one.model,
        "hook": config.get("metadata", {}).get("hook_name"),
        "architecture": config.get("architecture"),
        "latents × width": f"{config.get('d_sae')} × {config.get('d_in')}",
        "scenarios": _scenarios(data),
        **one.facts,
        "Neuronpedia": neuronpedia and f"[{neuronpedia}](https://neuronpedia.org/{neuronpedia})",
    }
    rows = [[name, _words(value)] for name, value in told.items() if value is not None]
    caption, quality = one.quality
    return [f"## {one.sae_id}", one.what, markdown_table(Table(["", ""], rows)), f"{caption}:", markdown_table(quality)]


def _scenarios(data: Mapping[str, Any]) -> str:
    named = [data.get("source") or MISSING, data.get("revision"), f"{data['n']:,} scenarios" if "n" in data else None]
    sha256 = data.get("sha256")
    return ", ".join(str(part) for part in [*named, sha256 and f"sha256 {sha256[:16]}…"] if part)


def _prompts(config: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    about = {**said, **(config.get("metadata", {}).get("sae_moral") or {})}
    found = {name: about.get(name) for name in ("template", "pooling", "bos")}
    return {name: None if value is None else f"`{value}`" for name, value in found.items()}


def _loading(one: Described, repo_id: str) -> str:
    return f"""\
## Loading

With [SAELens](https://github.com/decoderesearch/SAELens):

```python
from sae_lens import SAE

sae = SAE.from_pretrained({json.dumps(repo_id)}, {json.dumps(one.sae_id)})
```

With sae-moral, which checks that it belongs to the model, and feeds it the prompts it was made for:

```python
from sae_moral import load_model
from sae_moral.sae import load_sae

model = load_model({json.dumps(one.model)})
sae = load_sae(({json.dumps(repo_id)}, {json.dumps(one.sae_id)}), model=model)
```"""


def _licence(saes: Sequence[Described], licence: str | None) -> str:
    from sae_moral.capture.bundled import BUNDLED

    of_models = {name: BUNDLED[name].licence if name in BUNDLED else "see its page" for name in {s.model for s in saes}}
    of_data = {str(one.data.get("source")): one.data.get("licence") or "not stated" for one in saes}
    lines = [f"- weights of this repository: {licence or 'not stated'}"]
    lines += [f"- model {name}: {words}" for name, words in sorted(of_models.items())]
    lines += [f"- scenarios {name}: {words}" for name, words in sorted(of_data.items())]
    return "\n".join(["## Licences\n", *lines])


def _words(value: Any) -> str:
    if value is None:
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
