"""The figure of any result folder or file: which figure a kind of result has, and what of it can be chosen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sae_moral.errors import DataError
from sae_moral.io import read_json
from sae_moral.report.panels import WIDTH
from sae_moral.report.style import shrink

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LATENTS = "moral_latents.json"
FILES = ("atlas.json", "sweep.json", "diagnosis.json", LATENTS, "saes.json")
"""What is looked for in a folder, in this order."""
KINDS = ("diagnosis", "atlas", "sweep", "moral_latents", "compared_saes")
"""Kinds of records that have a figure."""
NARROWEST = 6.0
"""Of a sweep's figure, in inches: below it, its letters could not be read."""


def result_figure(
    path: str | Path, *, metric: str | None = None, protocol: str | None = None, width: float | None = None
) -> Figure:
    """The figure of a result that was written before.

    A diagnosis: `Diagnosis.figure`. An atlas: `Atlas.figure`. A sweep: effect against damage. Moral latents: of one SAE
    the polarity map, of several the shares by layer. Compared SAEs: encoded less stream, by metric.

    Args:
        path: a file of a diagnosis, an atlas, a sweep, moral latents or compared SAEs, or the folder that holds it.
        metric: of a diagnosis or an atlas; all by default.
        protocol: of an atlas; by default that whose representations were compared.
        width: in inches, 3.3 for one column of a paper; by default that of a page, 7.8.

    Raises:
        ValueError: an unknown metric or protocol, one where the result has none, or a width that is too small.
        DataError: no result, a result that has no figure, or a damaged one; names the file.
        FileNotFoundError: no such file or folder.
    """
    path = Path(path)
    files = _files(path)
    kind = "moral_latents" if len(files) > 1 else _kind(files[0])
    for name, given, having in (("metric", metric, ("diagnosis", "atlas")), ("protocol", protocol, ("atlas",))):
        if given is not None and kind not in having:
            raise ValueError(
                f"{name} {given!r}: {path} is of the kind {kind}, where there is no {name} to choose; leave it out, or "
                f"give a result of the kind {' or '.join(having)}"
            )
    if kind == "diagnosis":
        from sae_moral.diagnosis import Diagnosis

        return Diagnosis.load(files[0]).figure(metric, width=width)
    if kind == "atlas":
        from sae_moral.studies.atlas_page import Atlas

        return Atlas.load(files[0]).figure(metric, protocol=protocol, width=width)
    if kind == "sweep":
        return _of_sweep(files[0], width)
    of_page = WIDTH if width is None else width
    if kind == "compared_saes":
        from sae_moral.studies.compared_page import differences_figure
        from sae_moral.studies.compared_saes import ComparedSaes

        return differences_figure(ComparedSaes.load(files[0]).rows, width=of_page)
    return _of_latents(files, of_page)


def _files(path: Path) -> list[Path]:
    """The file of a result; of moral latents of several layers one each.

    Raises:
        DataError: a folder without any.
    """
    if not path.is_dir():
        return [path]
    if found := next((path / name for name in FILES if (path / name).is_file()), None):
        return [found]
    if layers := sorted(path.glob(f"layer_*/{LATENTS}")):
        return layers
    raise DataError(f"no result in this folder; expected {', '.join(FILES[:-1])} or {FILES[-1]}", file=path)


def _kind(path: Path) -> str:
    """
    Raises:
        DataError: no result of ours, or one without a figure.
    """
    found = read_json(path, what="a result of sae-moral (JSON)")
    kind = found.get("kind") if isinstance(found, dict) else None
    if not isinstance(kind, str):
        raise DataError(f"no result of sae-moral; expected a JSON object of the kind {' or '.join(KINDS)}", file=path)
    if kind not in KINDS:
        raise DataError(f"the kind {kind!r} has no figure; expected {', '.join(KINDS)}", file=path)
    return kind


def _of_sweep(path: Path, width: float | None) -> Figure:
    from sae_moral.studies.sweep_page import damage_figure
    from sae_moral.studies.sweep_run import Sweep

    rows = Sweep.load(path).rows
    if not any(effect.auroc is not None for row in rows if row.kl is not None for effect in row.words):
        raise DataError("no row has an AUROC and a KL to draw it over; sweeps of version 0.1 had none", file=path)
    figure = damage_figure(rows)
    if width is not None:
        if not NARROWEST <= width <= 100:
            raise ValueError(f"{width:g} inches for the two panels of a sweep; expected {NARROWEST:g} to 100")
        before = figure.get_figwidth()
        figure.set_size_inches(width, figure.get_figheight() * width / before)
        shrink(figure, min(1.0, width / before))
    return figure


def _of_latents(files: list[Path], width: float) -> Figure:
    from sae_moral.sae import MoralLatents
    from sae_moral.studies.latents_page import fractions_figure, polarity_figure

    found = [MoralLatents.load(file.parent) for file in files]
    if len(found) == 1:
        return polarity_figure(found[0], width=width)
    return fractions_figure({one.layer: one for one in found}, width=width)
