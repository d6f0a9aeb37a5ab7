"""`MoralLatents`: which latents carry which moral dimension, with every number that says so and what shaped it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from typing_extensions import NotRequired, TypedDict

from sae_moral.errors import DataError, FolderError, unknown
from sae_moral.foundations import DIMENSIONS
from sae_moral.io import check_files, differences, locked, read_typed, record, write_together
from sae_moral.sae.association import (
    AUDITED_CLASSES,
    PAPER_CLASSES,
    released_pairs,
)  # fmt: skip
from sae_moral.shown import at, shown
from sae_moral.tables import Table

SCHEMA_VERSION = 2
RECORD, ARRAYS = "moral_latents.json", "moral_latents.safetensors"
RULES = ("audited", "paper", "released")


class TopScenario(TypedDict):
    """A scenario on which a latent is high."""

    id: str
    text: str
    value: float


class LatentRow(TypedDict):
    """A latent, its dimension, and the numbers of the held-out part there; None where undefined."""

    latent: int
    audited_class: str
    paper_class: str
    dimension: str
    partial_r: float | None
    partial_p: float | None
    pearson: float | None
    spearman: float | None
    auroc: float | None
    prototypicality: float | None
    ci_low: float | None
    ci_high: float | None
    replicated: bool
    selection_r: float
    selection_q: float
    selectivity: float
    length_r: float | None
    frequency_r: float | None
    firing: float


class LatentProvenance(TypedDict):
    """What shaped moral latents. `split` is `group_split` or `given`, and `parts` (since schema version 2) a key of the
    rows of each part; `n` counts texts, records and latents."""

    data: dict[str, Any]
    measured: list[str]
    n: dict[str, int]
    settings: dict[str, Any]
    select: list[str]
    report: list[str]
    split: str
    parts: NotRequired[str]
    capture: dict[str, Any]


def _facts(found: MoralLatents) -> dict[str, object]:
    named = {"sae": at(found.sae, "source"), "layer": found.layer, "data": at(found.provenance, "data", "source")}
    return {**named, "latents": len(found), "moral": len(found.latents())}


def _by_dimension(found: MoralLatents) -> list[Table]:
    chosen = {name: found.latents(name) for name in DIMENSIONS}
    rows = [[name, str(len(of)), ", ".join(map(str, of[:8]))] for name, of in chosen.items() if of]
    return [Table(["dimension", "moral latents", "first ones"], rows)]


@shown(facts=_facts, tables=_by_dimension)
@dataclass(frozen=True, eq=False)
class MoralLatents:
    """The moral latents of one SAE. Selected on one part of the texts; what is reported is of the other part.

    Attributes:
        layer: the block the SAE belongs to.
        sae: what `LoadedSae.describe` says, its sha256 included.
        provenance: data (source, sha256), parts, settings, capture.
        null: what the same rules find with permuted labels, mean over the permutations.
        top: of each moral latent, the held-out scenarios on which it is highest.
        arrays: by name, [s, 10] unless said otherwise. Of the selection part: `selection_r`, `selection_p`,
            `selection_q`, `first_half_r`, `second_half_r` (partial correlations given length and word frequency, and
            their p- and adjusted p-values), `paper_r` (plain, over records), `passes`, `audited_class`, `paper_class`
            [s], `selectivity` [s], `nuisance_share` [s], `fired` [s]. Of the held-out part: those of `LatentRow`,
            `replicated` (p ≤ 0.05 after Benjamini–Hochberg over the pairs that pass), `length_r`, `frequency_r`,
            `firing` [s], `report_nuisance_share` [s]. Undefined values are 0 there, and `defined` and
            `prototypicality_defined` say where; the methods give None for them.
    """

    layer: int
    sae: Mapping[str, Any]
    provenance: LatentProvenance
    null: Mapping[str, float | None]
    top: Mapping[str, list[TopScenario]]
    arrays: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        """Latents of the SAE."""
        return len(self.arrays["passes"])

    @property
    def measured(self) -> tuple[str, ...]:
        """Dimensions with enough texts to be measured."""
        return tuple(self.provenance["measured"])

    def pairs(self, rule: str = "audited") -> Bool[np.ndarray, "s 10"]:
        """Which latent is moral for which dimension. Under `paper` and `released` the sign does not count.

        Raises:
            ValueError: a rule other than audited, paper, released.
        """
        if rule not in RULES:
            raise unknown("rule", rule, RULES)
        if rule == "audited":
            return self.arrays["passes"]
        if rule == "released":
            return released_pairs(self.arrays["paper_r"])
        single = self.arrays["paper_class"] == PAPER_CLASSES.index("monosemantic")
        return (np.abs(self.arrays["paper_r"]) > 0.1) & single[:, None]

    def latents(self, dimension: str | None = None, *, rule: str = "audited", limit: int | None = None) -> list[int]:
        """Moral latents, those with the largest correlation on the selection part first.

        Args:
            dimension: only those of one dimension.
            rule: `audited`, `paper` (its monosemantic latents), or `released` (see `released_pairs`).
            limit: at most so many.

        Raises:
            ValueError: unknown dimension or rule.
        """
        if dimension is not None and dimension not in DIMENSIONS:
            raise unknown("dimension", dimension, DIMENSIONS)
        return self._strongest(self.pairs(rule), dimension, rule, limit)

    def _strongest(
        self, pairs: Bool[np.ndarray, "s 10"], dimension: str | None, rule: str, limit: int | None
    ) -> list[int]:
        chosen = pairs & np.array([dimension in (None, name) for name in DIMENSIONS])
        by = self.arrays["selection_r"] if rule == "audited" else np.abs(self.arrays["paper_r"])
        strength = np.where(chosen, by, -np.inf).max(axis=1)
        order = np.argsort(-strength, kind="stable")[: int(chosen.any(axis=1).sum())]
        return order[:limit].tolist()

    def by_dimension(
        self, *, rule: str = "audited", limit: int | None = None, one_pole: bool = False
    ) -> dict[str, list[int]]:
        """`latents` of every dimension: what surgery takes.

        Args:
            one_pole: a latent of virtues and of vices (loyalty and betrayal often share one) is only of the pole that
                it correlates with more; in a contrast of poles it would cancel.
        """
        pairs = self.pairs(rule)
        if one_pole:
            by = self.arrays["selection_r"] if rule == "audited" else np.abs(self.arrays["paper_r"])
            by = np.where(pairs, by, -np.inf)
            virtue = by[:, ::2].max(axis=1) >= by[:, 1::2].max(axis=1)
            pairs = pairs & np.stack([virtue, ~virtue] * (len(DIMENSIONS) // 2), axis=1)
        return {name: self._strongest(pairs, name, rule, limit) for name in DIMENSIONS}

    def classes(self, rule: str = "audited") -> dict[str, int]:
        """How many latents are in each class of a rule: `audited` or `paper`."""
        if rule not in (classed := ("audited", "paper")):
            raise unknown("rule with classes", rule, classed)
        names = AUDITED_CLASSES if rule == "audited" else PAPER_CLASSES
        counts = np.bincount(self.arrays[f"{rule}_class"], minlength=len(names))
        return dict(zip(names, counts.tolist(), strict=True))

    def fractions(self) -> dict[str, float | None]:
        """Shares of all latents, as found and with permuted labels, and how many of the pairs hold on the other part.

        `audited`: monosemantic by the audited rule; `paper`: by the paper's; `paper_moral`: not weak by the paper's.
        """
        audited, paper, replicated = self.classes(), self.classes("paper"), self.arrays["replicated"]
        passing = int(self.arrays["passes"].sum())
        return {
            "audited": audited["monosemantic"] / len(self),
            "audited_null": self.null["audited"],
            "audited_replicated": int(replicated.sum()) / passing if passing else None,
            "paper": paper["monosemantic"] / len(self),
            "paper_null": self.null["paper"],
            "paper_moral": 1 - paper["weak"] / len(self),
            "paper_moral_null": self.null["paper_moral"],
            "dead": float((self.arrays["firing"] == 0).mean()),
        }

    def rows(self, latents: Int[np.ndarray, "k"] | list[int] | None = None) -> list[LatentRow]:
        """One row per latent (by default every moral one): classes, its dimension, and the held-out numbers there."""
        if latents is None:
            latents = sorted({*self.latents(), *self.latents(rule="paper")})
        return [self._row(int(latent)) for latent in latents]

    def _row(self, latent: int) -> LatentRow:
        a = self.arrays
        d = int(np.where(a["passes"][latent].any(), np.where(a["passes"][latent], a["selection_r"][latent], -2),
                         a["selection_r"][latent]).argmax())  # fmt: skip
        low, high = self._interval(float(a["partial_r"][latent, d]))
        known = bool(a["defined"][latent, d]) and DIMENSIONS[d] in self.measured

        def held(name: str, defined: bool = known) -> float | None:
            return float(a[name][latent, d]) if defined else None

        return LatentRow(
            latent=latent,
            audited_class=AUDITED_CLASSES[a["audited_class"][latent]],
            paper_class=PAPER_CLASSES[a["paper_class"][latent]],
            dimension=DIMENSIONS[d],
            partial_r=held("partial_r"),
            partial_p=held("partial_p"),
            pearson=held("pearson"),
            spearman=held("spearman"),
            auroc=held("auroc"),
            prototypicality=held("prototypicality", known and bool(a["prototypicality_defined"][latent, d])),
            ci_low=low if known else None,
            ci_high=high if known else None,
            replicated=bool(a["replicated"][latent, d]),
            selection_r=float(a["selection_r"][latent, d]),
            selection_q=float(a["selection_q"][latent, d]),
            selectivity=float(a["selectivity"][latent]),
            length_r=float(a["length_r"][latent]) if known else None,
            frequency_r=float(a["frequency_r"][latent]) if known else None,
            firing=float(a["firing"][latent]),
        )

    def _interval(self, r: float) -> tuple[float, float]:
        """95 % by Fisher's z, for a partial correlation given five columns; optimistic where few texts fire."""
        half = 1.959964 / np.sqrt(max(self.provenance["n"]["report_texts"] - 3 - 4, 1))
        z = np.arctanh(np.clip(r, -0.999999, 0.999999))
        return float(np.tanh(z - half)), float(np.tanh(z + half))

    def shaped_by(self) -> dict[str, Any]:
        """Everything that shaped the latents, by name: what their key is of."""
        about = self.provenance
        of_data = {"data": about["data"].get("sha256"), "sae": self.sae["sha256"], "layer": self.layer}
        names = ("settings", "select", "report", "split", "parts", "n", "capture")
        return {**of_data, **{name: about.get(name) for name in names}}

    def save(self, folder: Path | str, *, overwrite: bool = False) -> Path:
        """Write `moral_latents.json`, a record, and `moral_latents.safetensors`, together.

        Args:
            overwrite: replace other moral latents in the folder.

        Raises:
            FolderError: the folder holds other moral latents; says in what they differ.
            BusyError: another process is writing there.
        """
        from safetensors.numpy import save

        folder = Path(folder)
        content = save({name: np.ascontiguousarray(array) for name, array in self.arrays.items()})
        about = {name: getattr(self, name) for name in ("layer", "sae", "provenance", "null", "top")}
        files = {ARRAYS: hashlib.sha256(content).hexdigest()}
        text = record(
            "moral_latents",
            SCHEMA_VERSION,
            {**about, "files": files, "fractions": self.fractions(), "moral": self.rows()},
        )
        with locked(folder):
            if not overwrite and (folder / RECORD).exists():
                before, now = MoralLatents.load(folder).shaped_by(), self.shaped_by()
                if told := differences(before, now):
                    raise FolderError(f"{folder} holds other moral latents: {told}; choose another folder")
            write_together(folder, {ARRAYS: content, RECORD: text})
        return folder / RECORD

    @staticmethod
    def load(folder: Path | str) -> MoralLatents:
        """What `save` wrote.

        Raises:
            FileNotFoundError: no such files.
            DataError: another kind of file, a newer schema, damage; names the file.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        folder = Path(folder)
        found = read_typed(
            folder / RECORD, _Content, "moral_latents", SCHEMA_VERSION, checked_from=2, migrate=_migrated
        )
        check_files(folder, found.files)
        try:
            arrays = load((folder / ARRAYS).read_bytes())
        except SafetensorError as error:
            raise DataError(f"not a safetensors file: {error}", file=folder / ARRAYS) from error
        return MoralLatents(found.layer, found.sae, found.provenance, found.null, found.top, arrays)


@dataclass(frozen=True)
class _Content:
    """The content of a record, under its names there."""

    layer: int
    sae: dict[str, Any]
    provenance: LatentProvenance
    null: dict[str, float | None]
    top: dict[str, list[TopScenario]]
    files: dict[str, str]
    fractions: dict[str, float | None]
    moral: list[LatentRow]


def _migrated(version: int, content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had the checksum of the arrays under `arrays`."""
    return {"files": {ARRAYS: content.pop("arrays")}, **content}
