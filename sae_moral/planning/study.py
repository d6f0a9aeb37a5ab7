"""`plan`: from a command's own arguments to what it needs."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_moral.errors import unknown
from sae_moral.io import existing
from sae_moral.planning.needs import Needs, Rate, Step, size

if TYPE_CHECKING:
    import torch

    from sae_moral.controls import Controls
    from sae_moral.data import MoralData
    from sae_moral.planning.sizes import ModelSizes
    from sae_moral.planning.steps import Setting
    from sae_moral.planning.texts import Texts
    from sae_moral.protocol import Protocol
    from sae_moral.sae.train_config import TrainSettings

STUDIES = ("diagnose", "train-sae")
LIBRARIES = {
    "diagnose": ("sae_moral.controls.measure", "sae_moral.metrics.structural", "sae_moral.report.diagnosis_page"),
    "train-sae": ("sae_moral.sae.train",),
}
"""Modules that bring into memory the libraries that a study has there."""


def plan(
    model: str | Path,
    data: Any = "moralstrength",
    *,
    study: str = "diagnose",
    layers: str | int | Sequence[int] = "all",
    limit: int | None = None,
    protocol: str | Protocol = "audited",
    template: str | None = None,
    controls: str | Sequence[str] | Controls = "default",
    settings: TrainSettings | None = None,
    store: str | Path | None = None,
    out: str | Path | None = None,
    dtype: str = "float32",
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    memory: str | int | None = None,
    flops: float | None = None,
) -> Needs:
    """What a study needs, before anything of it is loaded: memory, disk, files, forward passes and hours of each step,
    and which steps do not fit.

    Sizes are of the model's configuration and of the scenarios' tokens. Rates are measured here, in about a second and
    a half, unless they are given.

    Args:
        model: as for `load_model`, by name. Only its configuration and its tokenizer are read.
        data: as for `diagnose`.
        study: `diagnose`, or `train-sae`: which command.
        layers: as for that command.
        limit: use at most so many scenarios.
        protocol: as for `diagnose`; that of a training is its settings'.
        template: as for `diagnose`.
        controls: as for `diagnose`.
        settings: of a training.
        store: as for `diagnose`; a training has one in any case.
        out: folder of the results: whose disk it is.
        dtype: of the model.
        device: of the model; one that this machine does not have needs `memory` and `flops`.
        revision: of a hub name.
        trust_remote_code: as for `load_model`.
        memory: what the device has, in bytes or as `80GiB`; by default what is free here.
        flops: FLOP/s of a forward pass on the device, e.g. 2e14; by default measured here.

    Raises:
        ValueError: an unknown name, layer or setting; a device that is not here without `memory`.
        DataError: scenarios that cannot be read or used, or that are longer than the model's context.
    """
    from sae_moral.capture.models import as_dtype
    from sae_moral.capture.run import budget_on
    from sae_moral.data import load_data
    from sae_moral.planning.sizes import sizes_of
    from sae_moral.planning.texts import texts_of
    from sae_moral.protocol import parse_layers

    if study not in STUDIES:
        raise unknown("study", study, STUDIES)
    if flops is not None and not flops > 0:
        raise ValueError(f"flops is {flops}; expected operations per second, above 0")
    kind, here = as_dtype(dtype), _here(device)
    there, said = _memory(memory, here, device)
    scenarios = load_data(data)
    scenarios = scenarios if limit is None else scenarios.sample(limit)
    more = {} if revision is None else {"revision": revision}
    sizes = sizes_of(model, dtype=kind, trust_remote_code=trust_remote_code, **more)
    chosen = _protocol(study, sizes, protocol, template, settings)
    numbers = parse_layers(layers, sizes.n_layers)
    place = str(device or here or "cpu")
    for module in LIBRARIES[study]:
        importlib.import_module(module)
    texts = texts_of(scenarios.text, sizes, chosen, budget_on(place))
    folder = existing(store or out or ".")
    common = _setting(sizes, kind, numbers, place, here, flops, texts, folder)
    steps, facts, rates = (_diagnosis if study == "diagnose" else _training)(
        common, scenarios, texts, chosen, controls, settings, store is not None, here
    )
    known = tuple(one for one in (common.forward, common.disk, *rates) if one is not None)
    return Needs(
        study=study,
        model=str(model),
        data=data if isinstance(data, str) else str(scenarios.provenance.get("source", "")),
        dtype=str(kind).removeprefix("torch."),
        device=place,
        layers=tuple(numbers),
        facts={**_facts(common, texts, len(scenarios)), **facts},
        rates=known,
        steps=tuple(steps),
        memory=there,
        memory_source=said,
        disk=shutil.disk_usage(folder).free,
        notes=tuple(_notes(common, texts, here)),
    )


def _here(device: str | None) -> str | None:
    """The device, where this machine has it."""
    from sae_moral.capture.models import as_device

    try:
        return as_device(device)
    except ValueError:
        return None


def _memory(given: str | int | None, here: str | None, device: str | None) -> tuple[int, str]:
    """Bytes of the device, and where the number is from.

    Raises:
        ValueError: no number of bytes; none, and a device that is not here.
    """
    import psutil
    from accelerate.utils import convert_file_size_to_int, get_max_memory

    if given is not None:
        try:
            found = convert_file_size_to_int(given)
        except ValueError:
            found = 0
        if found <= 0:
            raise ValueError(f"memory {given!r}; expected bytes, or a number with a unit: 80GiB, 500MB")
        return found, "given"
    if here is None:
        raise ValueError(f"no device {device!r} on this machine; say what it has, e.g. memory='80GiB'")
    free = get_max_memory()
    if here == "cpu":
        return int(free["cpu"]) + psutil.Process().memory_info().rss, "free on this machine now"
    return int(free.get(int(here.partition(":")[2] or 0), free["cpu"])), "free on this machine now"


def _protocol(
    study: str,
    sizes: ModelSizes,
    protocol: str | Protocol,
    template: str | None,
    settings: TrainSettings | None,
) -> Protocol:
    from sae_moral.capture.chat import message_of
    from sae_moral.diagnosis import prompted
    from sae_moral.protocol import get_protocol

    if study == "train-sae":
        return get_protocol(protocol if settings is None else settings.protocol)
    return prompted(get_protocol(protocol), sizes.tokenizer, template, template and message_of(template))


def _setting(
    sizes: ModelSizes,
    dtype: torch.dtype,
    layers: Sequence[int],
    place: str,
    here: str | None,
    flops: float | None,
    texts: Texts,
    folder: Path,
) -> Setting:
    import psutil

    from sae_moral.planning.rates import forward_rate, write_rate
    from sae_moral.planning.steps import Setting

    process = psutil.Process().memory_info().rss if place == "cpu" else 0  # before anything is measured
    if flops is not None:
        forward = Rate("forward pass", flops, "FLOP/s", "given")
    else:
        forward = None if here is None else forward_rate(sizes, dtype, here, *texts.largest)
    return Setting(sizes, dtype, layers, process, forward, write_rate(folder))


def _diagnosis(
    on: Setting,
    data: MoralData,
    texts: Texts,
    protocol: Protocol,
    controls: str | Sequence[str] | Controls,
    settings: TrainSettings | None,
    stored: bool,
    here: str | None,
) -> tuple[list[Step], dict[str, Any], list[Rate]]:
    from sae_moral.capture.run import budget_on
    from sae_moral.controls import get_controls
    from sae_moral.controls.valence import sentences
    from sae_moral.data.text import words
    from sae_moral.planning import steps
    from sae_moral.planning.texts import texts_of

    asked = get_controls(controls)
    valence = texts_of(sentences().text, on.sizes, protocol, budget_on(here or "cuda"))
    vocabulary = len({word for one in set(data.text) for word in words(one)})
    found = [*steps.loading(on), steps.capture(on, texts, stored=stored)]
    found += steps.controls(on, texts, valence, asked, len(data), vocabulary, stored=stored)
    facts = {"controls": ", ".join(asked.names) or "none", "distinct_words": vocabulary}
    return [*found, steps.results(3)], facts, []


def _training(
    on: Setting,
    data: MoralData,
    texts: Texts,
    protocol: Protocol,
    controls: Any,
    settings: TrainSettings | None,
    stored: bool,
    here: str | None,
) -> tuple[list[Step], dict[str, Any], list[Rate]]:
    from sae_moral.capture.run import TOKENS_PER_BATCH
    from sae_moral.data import group_split
    from sae_moral.planning import steps
    from sae_moral.planning.rates import SAE_WIDTH, random_activations, sae_parameters, training_rate
    from sae_moral.planning.texts import texts_of
    from sae_moral.sae.train import SPLICED_TEXTS
    from sae_moral.sae.train_config import TrainSettings

    settings = settings or TrainSettings()
    split = group_split(data, seed=settings.split_seed)
    trained = texts_of([data.text[i] for i in split["train"]], on.sizes, protocol, TOKENS_PER_BATCH)
    held = list(dict.fromkeys(data.text[i] for i in split["validation"]))[:SPLICED_TEXTS]
    spliced = texts_of(held, on.sizes, protocol, TOKENS_PER_BATCH)
    token = settings.granularity == "token"
    n_train = trained.own if token else trained.n
    known = settings.resolved(n_train)
    weights, rates = sae_parameters(settings, on.sizes.d_model), []
    if here is not None:
        few = random_activations(min(on.sizes.d_model, SAE_WIDTH), 4 * settings.batch)
        rates = [training_rate(few, settings, here)]
    n_steps = known.steps or 0
    found = [*steps.loading(on), steps.capture(on, texts, stored=True, token=token)]
    found += steps.training(
        on, texts, spliced, weights, n_steps, known.batch, rates[0] if rates else None, known.checkpoints
    )
    facts = {"training_vectors": n_train, "steps": n_steps, "weights_of_an_SAE": weights}
    return found, facts, rates


def _facts(on: Setting, texts: Texts, n: int) -> dict[str, Any]:
    sizes = on.sizes
    return {
        "parameters": sizes.parameters,
        "d": sizes.d_model,
        "blocks": sizes.n_layers,
        "scenarios": n,
        "distinct_prompts": texts.n,
        "tokens": texts.tokens,
        "batches": texts.passes,
        "process": size(on.process),
        "weights": size(on.weights),
    }


def _notes(on: Setting, texts: Texts, here: str | None) -> list[str]:
    found = list(on.sizes.notes)
    if texts.estimated:
        found.append(f"tokens are estimated: one in {texts.scale:.3g} distinct texts was tokenised")
    if on.process:
        found.append("process is what Python and the libraries hold in this very process")
    found.append("memory is a sum of what is known to be held; leave a fifth of it free for what an allocator keeps")
    if on.forward is None:
        found.append("no hours of forward passes: the device is not here; give its FLOP/s")
    if here is None or (on.forward is not None and on.forward.source == "given"):
        found.append("the disk, and hours without a FLOP of their own, are of this machine")
    if getattr(on.sizes.empty.config, "quantization_config", None) is not None:
        found.append("the model is quantised; its weights are counted as if they were not")
    return found
