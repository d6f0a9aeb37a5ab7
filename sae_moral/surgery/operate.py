"""`operate`: train the moral latents of an SAE to keep apart poles and to order by typicality; all else stays.

Method: arXiv 2603.15615 ("targeted alignment"). Three parts of the texts, no text in two: latents are selected and
trained on the first, training stops by the second, everything that is reported is of the third.

What it does not prove. That a model's behaviour changes: only the SAE did; put the edit back (`sae_moral.steering`) and
measure. That the gain is about morality: run the controls, above all shuffled labels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sae_moral.capture import Representations, hooked_model
from sae_moral.data import MoralData
from sae_moral.data.splits import PARTS, Split, group_split, leaks
from sae_moral.errors import unknown
from sae_moral.foundations import DIMENSIONS
from sae_moral.io import jsonable
from sae_moral.provenance import HookedModel, versions
from sae_moral.sae.find_latents import find_moral_latents
from sae_moral.sae.load import LoadedSae, SaeLike, load_sae, need_stream
from sae_moral.sae.moral_latents import MoralLatents
from sae_moral.surgery.evaluate import CONTROLS, firing_rates, random_latents, shuffled, table
from sae_moral.surgery.fit import Fit
from sae_moral.surgery.operation import Operation, Rows, digests, rows_of, with_rows
from sae_moral.surgery.part import Part
from sae_moral.surgery.record import Epoch, Hashes, SurgeryRecord, Weights
from sae_moral.surgery.settings import SurgerySettings, get_settings
from sae_moral.surgery.terms import TERMS, Labels, Term, by_columns, contrasts
from sae_moral.surgery.vectors import latents_of, vectors_of
from sae_moral.surgery.write import Writes, get_writes

NO_DIMENSION = ""
"""Under which latents stand that belong to no dimension."""
Latents = MoralLatents | Mapping[str, Sequence[int]] | Sequence[int]


def operate(
    sae: SaeLike,
    latents: Latents | None,
    representations: Representations | HookedModel | nn.Module,
    data: MoralData,
    *,
    settings: str | SurgerySettings = "default",
    write: Writes | None = None,
    terms: Sequence[Term] = (),
    control: str = "none",
    seed: int = 0,
    split: Split | None = None,
    granularity: str | None = None,
    any_model: bool = False,
    store: Path | str | None = None,
    progress: bool | None = None,
    **changes: Any,
) -> Operation:
    """Operate on moral latents.

    Args:
        sae: what `load_sae` takes; it is not changed.
        latents: `find_moral_latents`' result (selected on the training part), {dimension: latents}, or None to find
            them. A plain list of latents belongs to no dimension: then only your own `terms` say what they learn.
        representations: `Representations` of the data, or the model they are of.
        data: the labelled scenarios.
        settings: `default`, `paper`, or a `SurgerySettings`.
        write: what decoder rows gain when readers are trained: names of `WRITES`, `along(vector)`, or `WriteTerm`s of
            your own; None: nothing.
        terms: of the loss, beside those of the settings.
        control: `none`, `shuffled`, `random` or `no-surgery`; see `evaluate`.
        seed: of the batches, the control and the intervals.
        split: records of train, validation and test; by default `group_split(data)`.
        granularity: as for `vectors_of`.
        any_model: accept an SAE of a model with another name.
        store: as for `vectors_of`.
        progress: progress bars of a capture.
        changes: fields of `SurgerySettings`, e.g. `polarity=0.5`.

    Raises:
        ValueError: an unknown name; nothing to write within the limits; latents of another SAE, of other data or
            selected on texts of another part; vectors of another width or layer or not finite; a dimension with
            latents and without items in a part; an architecture that is not in `compatibility.OPERABLE`.
        RuntimeError: a loss that is not finite.

    Warns:
        SaeMoralWarning: vectors captured otherwise than what the SAE was trained on.
    """
    started = time.perf_counter()
    if control not in CONTROLS:
        raise unknown("control", control, CONTROLS)
    chosen = get_settings(settings, **changes)
    if not isinstance(representations, Representations):
        representations = hooked_model(representations)
    given_model = None if isinstance(representations, Representations) else representations
    loaded = load_sae(sae, model=given_model, any_model=any_model)
    need_stream(loaded, "surgery")
    split = _checked(split or group_split(data), data)
    if isinstance(latents, MoralLatents):
        _check_found(latents, loaded, data, split)
    writes, own = get_writes(write), _own_terms(terms)
    given = None if latents is None else _by_dimension(latents, loaded, chosen)
    vectors = vectors_of(representations, data.text, loaded, granularity=granularity, store=store, progress=progress)
    if given is None:
        latents = find_moral_latents(loaded, latents_of(vectors, loaded), data, split=split, report=("validation",))
        given = _by_dimension(latents, loaded, chosen)
    if control == "random":
        rates = firing_rates(loaded, vectors, torch.unique(vectors.row[torch.from_numpy(split["train"])]))
        given = random_latents(given, rates, _moral(latents, given), seed)
    _check_items(given, data, split)
    labels = shuffled(data, split, vectors.length, seed) if control == "shuffled" else data
    members = {latent for own in given.values() for latent in own}
    index, by_dimension = torch.tensor(sorted(members)), {name: given[name] for name in DIMENSIONS if name in given}
    columns, part = by_columns(index, by_dimension), Part(loaded, index)
    if writes and not columns:
        raise ValueError("a write needs latents of moral dimensions; expected {dimension: latents}, or no write")
    records = {name: torch.from_numpy(split[name]) for name in PARTS[:2]}
    fit = Fit(part, vectors, Labels.of(labels, part.latents.device), records, columns, chosen, own, writes)
    before = rows_of(loaded, index)
    rows, history, stopped, written = before, list[Epoch](), None, None
    if control != "no-surgery":
        rows, history, stopped = fit.run(seed)
        rows, written = fit.written(rows) if writes else (rows, None)
    name = f"{loaded.source}, operated" + ("" if control == "none" else f" ({control})")
    about = {"control": control, "settings": chosen.name, "latents": len(index), "sha256_before": loaded.sha256}
    operated = with_rows(loaded, index, part.rows(rows), name, surgery=about)
    test = torch.from_numpy(split["test"])
    record = SurgeryRecord(
        source=loaded.source,
        sha256=Hashes(before=loaded.sha256, after=operated.sha256),
        control=control,
        settings=chosen.to_dict() | {"terms": {term.name: term.weight for term in own}} if own else chosen.to_dict(),
        seed=seed,
        weights=_weights(loaded, operated, before),
        contrasted=[DIMENSIONS[2 * f] + "-" + DIMENSIONS[2 * f + 1] for f in contrasts(columns)],
        scale=fit.scale_before.tolist(),
        scale_after=fit.scale.tolist(),
        opened=[int(index[column]) for column in sorted(fit.opened)] if control != "no-surgery" else [],
        latents_found=jsonable(_found(latents)),
        parts={name: len(rows) for name, rows in split.items()},
        learnt_from=digests(data.text[i] for name in PARTS[:2] for i in split[name]),
        stopped=stopped,
        written=written,
        history=history,
        table=table(loaded, operated, vectors, data, test, index, columns, (fit.scale_before, fit.scale), seed=seed),
        data=jsonable({**data.provenance, "n": len(data), "sha256": data.sha256}),
        capture=jsonable(vectors.provenance),
        sae=jsonable(loaded.describe()),
        versions=versions(),
        seconds=round(time.perf_counter() - started, 1),
    )
    return Operation(operated, index, before, by_dimension, record)


def _own_terms(terms: Sequence[Term]) -> tuple[Term, ...]:
    names = [term.name for term in terms]
    if taken := [name for name in names if name in TERMS or name == "total" or names.count(name) > 1]:
        raise ValueError(
            f"terms named {taken}; expected names of their own, not twice and not {', '.join(TERMS)}, total"
        )
    return tuple(terms)


def _weights(before: LoadedSae, after: LoadedSae, rows: Rows) -> Weights:
    total, changed = sum(value.numel() for value in before.sae.state_dict().values()), _changed(before, after)
    trainable = sum(value.numel() for value in rows.values())
    return Weights(total=total, trainable=trainable, changed=changed, share_changed=changed / total)


def _by_dimension(latents: Latents, sae: LoadedSae, settings: SurgerySettings) -> dict[str, list[int]]:
    if isinstance(latents, MoralLatents):
        given = latents.by_dimension(rule=settings.rule, limit=settings.per_dimension, one_pole=settings.one_pole)
    elif not isinstance(latents, Mapping):
        given = {NO_DIMENSION: [int(latent) for latent in latents]}
    else:
        given = {name: [int(latent) for latent in members] for name, members in latents.items()}
    for name, members in given.items():
        if name not in (*DIMENSIONS, NO_DIMENSION):
            raise unknown("dimension", name, DIMENSIONS)
        outside = [latent for latent in members if not 0 <= latent < sae.d_sae]
        if outside or len(set(members)) < len(members):
            raise ValueError(
                f"latents of {name}: {outside or members}; expected distinct numbers from 0 to {sae.d_sae - 1}"
            )
    found = {name: sorted(given[name]) for name in (*DIMENSIONS, NO_DIMENSION) if given.get(name)}
    if not found:
        raise ValueError(
            f"no moral latent of {sae.source} by the rule {settings.rule!r}; nothing to operate on: pass rule='paper', "
            "more scenarios, or {dimension: latents}"
        )
    return found


def _check_found(latents: MoralLatents, sae: LoadedSae, data: MoralData, split: Split) -> None:
    """Latents must be this SAE's, and must not have been selected on what training stops by or on what is reported."""
    if latents.sae["sha256"] != sae.sha256:
        raise ValueError(
            f"these are latents of {latents.sae['source']} (sha256 {latents.sae['sha256'][:12]}), and the SAE is "
            f"{sae.source} (sha256 {sae.sha256[:12]}); expected latents of that SAE"
        )
    about = latents.provenance
    advice = "find them with find_moral_latents(..., select=('train',)) and the split that surgery uses, or pass "
    advice += "{dimension: latents} to use them all the same"
    if about["data"]["sha256"] != data.sha256:
        raise ValueError(
            f"these latents were found on other scenarios, which may hold texts of the test part; {advice}"
        )
    default = group_split(data, about["settings"]["seed"])
    same = about["split"] == "group_split" and all(np.array_equal(default[name], split[name]) for name in PARTS)
    if set(about["select"]) != {"train"} or not same:
        raise ValueError(f"these latents were selected on {about['select']} of another split; {advice}")


def _checked(split: Split, data: MoralData) -> Split:
    missing = [name for name in PARTS if not len(split.get(name, ()))]
    if missing:
        raise ValueError(f"no records in {', '.join(missing)}; expected some of each of {', '.join(PARTS)}")
    if shared := leaks(data, {name: split[name] for name in PARTS}).texts:
        raise ValueError(f"{shared} texts are in more than one part of the split; expected each in one: group_split")
    return {name: split[name] for name in PARTS}


def _check_items(by_dimension: Mapping[str, list[int]], data: MoralData, split: Split) -> None:
    for name in by_dimension.keys() - {NO_DIMENSION}:
        own = data.items(*divmod(DIMENSIONS.index(name), 2))
        for part, rows in split.items():
            if not own[rows].any():
                raise ValueError(
                    f"{name} has latents and no item in the {part} part; expected at least one: use more scenarios, or "
                    "leave the dimension out of the latents"
                )


def _moral(latents: Latents | None, by_dimension: Mapping[str, list[int]]) -> set[int]:
    found = {latent for members in by_dimension.values() for latent in members}
    if isinstance(latents, MoralLatents):
        found |= {*latents.latents(), *latents.latents(rule="paper")}
    return found


def _found(latents: Latents | None) -> dict[str, Any]:
    if not isinstance(latents, MoralLatents):
        return {"given": True}
    about = latents.provenance
    return {
        "given": False,
        "fractions": latents.fractions(),
        **{key: about[key] for key in ("settings", "n", "select")},
    }


def _changed(before: LoadedSae, after: LoadedSae) -> int:
    other: Mapping[str, Tensor] = after.sae.state_dict()
    return sum(int((value != other[name]).sum()) for name, value in before.sae.state_dict().items())
