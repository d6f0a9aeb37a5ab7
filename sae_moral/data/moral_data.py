"""`MoralData`: scenarios with human moral labels, the one shape every source is read into."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from sae_moral.data.groups import KINDS, near_groups, user_groups
from sae_moral.data.text import normalise
from sae_moral.errors import DataError, unknown
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, NEUTRAL, NO_FOUNDATION, POLARITIES, VICE, VIRTUE
from sae_moral.shown import at, shown
from sae_moral.tables import Table

if TYPE_CHECKING:
    from datasets import Dataset


def _counts(data: MoralData) -> list[Table]:
    rows = []
    for index, name in [*enumerate(FOUNDATIONS), (NO_FOUNDATION, "none")]:
        poles = data.pole[data.foundation == index]
        rows.append([name, *(f"{(poles == pole).sum():,}" for pole in (VIRTUE, VICE, NEUTRAL))])
    return [Table(["scenarios", "virtue", "vice", "neutral"], [row for row in rows if set(row[1:]) != {"0"}])]


@shown(facts=lambda data: {"source": at(data.provenance, "source"), "n": len(data.text)}, tables=_counts)
@dataclass(frozen=True, eq=False)
class MoralData:
    """n scenarios with human labels: one record per (text, foundation).

    A text rated for several foundations is several records with the same `vector` and the same `group`, each with
    the foundation, pole and typicality it is an item of (arXiv 2603.15615 expands Social-Chemistry so). The language
    model reads each distinct text once.

    Attributes:
        text: the scenarios.
        vector: moral vectors, strengths in [0, 1], columns in the order of `DIMENSIONS`.
        foundation: index into `FOUNDATIONS`; −1 where a neutral scenario belongs to none of them.
        pole: 0 virtue, 1 vice, 2 neutral.
        typicality: strength in [0, 1] of the record's own dimension; 0 for neutral ones.
        id: one name per record, for tables and error messages; not necessarily unique.
        provenance: origin, licence, citation, hash and counts; JSON values only.
        length: tokens per scenario, filled by a capture; None before one.
        strata: what folds are spread evenly over; None for foundation × pole. Permuted labels keep the original's.
        groups: which records are held together, if more than those of equal text (`regrouped`); None for these.
        nuisance: columns that audited readers take out of the vectors on their training parts, beside length; None for
            none. It belongs to the texts: permuted labels leave it.

    Raises:
        DataError: arrays of different lengths, empty data, an empty text, a strength outside [0, 1] or NaN, both
            poles of one foundation set, labels that contradict the vector.
    """

    text: tuple[str, ...]
    vector: Float[np.ndarray, "n 10"]
    foundation: Int[np.ndarray, "n"]
    pole: Int[np.ndarray, "n"]
    typicality: Float[np.ndarray, "n"]
    id: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    length: Int[np.ndarray, "n"] | None = None
    strata: Int[np.ndarray, "n"] | None = None
    groups: Int[np.ndarray, "n"] | None = None
    nuisance: Float[np.ndarray, "n q"] | None = None

    def __post_init__(self) -> None:
        n = len(self.text)
        if n == 0:
            raise DataError("no scenarios; expected at least one")
        for name in ("vector", "foundation", "pole", "typicality", "id", "length", "strata", "groups", "nuisance"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise DataError(f"{len(value)} values of {name} for {n} texts; expected one each")
        if self.vector.shape != (n, len(DIMENSIONS)):
            raise DataError(f"vectors of shape {self.vector.shape}; expected ({n}, {len(DIMENSIONS)})")
        check_vectors(self.vector, self.text)
        self._check_labels()

    def _check_labels(self) -> None:
        moral = self.pole != NEUTRAL
        if not np.isin(self.pole, (VIRTUE, VICE, NEUTRAL)).all():
            raise DataError(f"pole is one of 0 (virtue), 1 (vice), 2 (neutral); got {sorted(set(self.pole.tolist()))}")
        in_range = (self.foundation >= np.where(moral, 0, NO_FOUNDATION)) & (self.foundation < len(FOUNDATIONS))
        if not in_range.all():
            row = int(np.flatnonzero(~in_range)[0])
            raise DataError(
                f"foundation index {self.foundation[row]}; expected 0–4, or −1 for a neutral one",
                row=row + 1,
                column="foundation",
            )
        own = _own_strengths(self.vector, self.foundation)
        foreign = np.flatnonzero(~moral & (own.max(axis=1) > 0))
        if foreign.size:
            row = int(foreign[0])
            problem = "neutral, but its vector has a strength above 0 for its foundation (or, with none, for any)"
            raise DataError(f"{problem}; expected 0 there", row=row + 1, column="pole")
        own = np.where(moral, own[np.arange(len(self.text)), np.where(moral, self.pole, VIRTUE)], 0.0)
        wrong = np.flatnonzero(~np.isclose(own, self.typicality) | (moral & (own == 0)))
        if wrong.size:
            row = int(wrong[0])
            raise DataError(
                f"typicality is {self.typicality[row]} but the vector says {own[row]}; expected the strength of the "
                "record's own dimension, above 0 for a virtue or vice and 0 for a neutral one",
                row=row + 1,
                column="typicality",
            )

    def __len__(self) -> int:
        return len(self.text)

    @cached_property
    def same_text(self) -> Int[np.ndarray, "n"]:
        """Index of each record's normalised text."""
        key = {text: normalise(text) for text in set(self.text)}
        # Not np.unique: as a numpy array every text would take the room of the longest.
        index = {name: i for i, name in enumerate(sorted(set(key.values())))}
        return np.fromiter((index[key[text]] for text in self.text), dtype=np.int64, count=len(self))

    @property
    def group(self) -> Int[np.ndarray, "n"]:
        """Index of each record's group: records of one group never fall on both sides of a split. Equal texts
        (`same_text`), or more (`regrouped`)."""
        return self.same_text if self.groups is None else self.groups

    def regrouped(self, groups: str | Sequence[object] | Int[np.ndarray, "n"]) -> MoralData:
        """The same records, held together otherwise.

        Args:
            groups: `equal` (texts that are equal after `normalise`), `near` (near-equal ones too; of single words,
                families: `sae_moral.data.groups`), or a value per record of your own, where equal texts are joined
                whatever their values.

        Raises:
            ValueError: an unknown name, or not one value per record.
            DataError: a record without a value.
        """
        known = {name: value for name, value in self.provenance.items() if name != "groups"}
        if isinstance(groups, str) and groups == "equal":
            return self._held(None, {**known, "groups": {"kind": "equal"}})
        if isinstance(groups, str):
            if groups not in KINDS:
                raise unknown("groups", groups, KINDS)
            first, inverse, count = np.unique(
                self.same_text, return_index=True, return_inverse=True, return_counts=True
            )[1:]
            near = near_groups([normalise(self.text[i]) for i in first], count)
            return self._held(near.group[inverse.reshape(-1)], {**known, "groups": dict(near.facts)})
        own = user_groups(groups, self.same_text)
        return self._held(own.group, {**known, "groups": dict(own.facts)})

    def held_by(self, groups: str) -> MoralData:
        """As they were `regrouped`; if they never were, by `groups`."""
        return self if self.groups is not None or "groups" in self.provenance else self.regrouped(groups)

    def _held(self, groups: Int[np.ndarray, "n"] | None, provenance: Mapping[str, Any]) -> MoralData:
        found = replace(self, groups=groups, provenance=provenance)
        found.__dict__["same_text"] = self.same_text
        return found

    @cached_property
    def sha256(self) -> str:
        """Hash of the texts, labels and groups (not of the provenance): equal data, equal hash. Whatever is split,
        folded or drawn depends on the groups; those of equal text follow from the texts."""
        digest = hashlib.sha256()
        for text in self.text:
            encoded = text.encode("utf8")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        for array, dtype in (
            (self.vector, "<f8"),
            (self.typicality, "<f8"),
            (self.foundation, "<i8"),
            (self.pole, "<i8"),
        ):
            digest.update(np.ascontiguousarray(array + 0, dtype=dtype).tobytes())  # + 0: −0 and 0 are equal
        if self.groups is not None:
            first, inverse = np.unique(self.groups, return_index=True, return_inverse=True)[1:]
            digest.update(b"groups" + first[inverse.reshape(-1)].astype("<i8").tobytes())  # whatever their numbers
        return digest.hexdigest()

    def items(self, foundation: int, pole: int) -> Bool[np.ndarray, "n"]:
        """Which records are items of one foundation and pole. Neutral ones that belong to no foundation count as
        neutral for each."""
        own = self.foundation == foundation
        if pole == NEUTRAL:
            own = own | (self.foundation == NO_FOUNDATION)
        return own & (self.pole == pole)

    def subset(self, index: Int[np.ndarray, "k"] | Bool[np.ndarray, "n"]) -> MoralData:
        """The records at `index` (positions or a mask), in that order.

        Raises:
            ValueError: a mask of another length.
            DataError: no record chosen.
        """
        if index.dtype == bool and len(index) != len(self):
            raise ValueError(f"a mask of {len(index)} values for {len(self)} records; expected one each")
        rows = np.flatnonzero(index) if index.dtype == bool else index
        part = replace(
            self,
            text=tuple(self.text[i] for i in rows),
            id=tuple(self.id[i] for i in rows),
            vector=self.vector[rows],
            foundation=self.foundation[rows],
            pole=self.pole[rows],
            typicality=self.typicality[rows],
            length=None if self.length is None else self.length[rows],
            strata=None if self.strata is None else self.strata[rows],
            groups=None if self.groups is None else self.groups[rows],
            nuisance=None if self.nuisance is None else self.nuisance[rows],
        )
        if "same_text" in self.__dict__:  # normalising texts is slow, and resampling takes thousands of subsets
            part.__dict__["same_text"] = self.same_text[rows]
        return part

    def relabelled(self, index: Int[np.ndarray, "n"]) -> MoralData:
        """The same texts with their labels moved: record i gets those of record `index[i]`. Folds stay."""
        moved = replace(
            self,
            vector=self.vector[index],
            foundation=self.foundation[index],
            pole=self.pole[index],
            typicality=self.typicality[index],
            strata=self.foundation * 3 + self.pole if self.strata is None else self.strata,
        )
        moved.__dict__["same_text"] = self.same_text
        return moved

    def sample(self, n: int, *, seed: int = 0) -> MoralData:
        """At most n records in their original order, drawn so that every foundation × pole keeps its share.

        Raises:
            ValueError: n below 1.
        """
        if n < 1:
            raise ValueError(f"a sample of {n} scenarios; expected at least 1")
        if n >= len(self):
            return self
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(self))
        cell = (self.foundation * 3 + self.pole)[shuffled]
        # Within a cell of size m record k gets the key (k + u) / m, u uniform: the n smallest hold every cell's share.
        rank, size = np.zeros(len(self)), np.zeros(len(self))
        for value in np.unique(cell):
            members = np.flatnonzero(cell == value)
            rank[members], size[members] = np.arange(len(members)) + rng.uniform(), len(members)
        chosen = np.sort(shuffled[np.argsort(rank / size, kind="stable")[:n]])
        limited = replace(self.subset(chosen), provenance={**self.provenance, "sampled": {"n": n, "seed": seed}})
        return limited

    def to_dataset(self) -> Dataset:
        """As a `datasets.Dataset` with the columns id, text, vector, foundation, pole, typicality (names, not indices,
        for foundation and pole). `load_data` reads it back; provenance, length and groups are not part of it."""
        from datasets import Dataset

        return Dataset.from_dict(
            {
                "id": list(self.id),
                "text": list(self.text),
                "vector": self.vector.tolist(),
                "foundation": [FOUNDATIONS[i] if i >= 0 else None for i in self.foundation],
                "pole": [POLARITIES[i] for i in self.pole],
                "typicality": self.typicality.tolist(),
            }
        )


def check_vectors(vector: Float[np.ndarray, "n 10"], text: Sequence[str], *, file: str | None = None) -> None:
    """Refuse an empty text, one that is not Unicode (half of a surrogate pair: no tokenizer takes it), a
    strength outside [0, 1] or NaN, and both poles of one foundation set.

    Raises:
        DataError: names the first offending record and column.
    """
    empty = next((row for row, value in enumerate(text) if not value.strip()), None)
    if empty is not None:
        raise DataError("empty text; expected the scenario's words", file=file, row=empty + 1, column="text")
    for row, value in enumerate(text):
        try:
            value.encode()
        except UnicodeEncodeError:
            problem = "half of a surrogate pair in the text; expected valid Unicode"
            raise DataError(problem, file=file, row=row + 1, column="text") from None
    bad = ~((vector >= 0) & (vector <= 1))
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        problem = f"strength {vector[row, column]}; expected a number from 0 to 1"
        raise DataError(problem, file=file, row=row + 1, column=DIMENSIONS[column])
    both = (vector[:, 0::2] > 0) & (vector[:, 1::2] > 0)
    if both.any():
        row, foundation = (int(i) for i in np.argwhere(both)[0])
        virtue, vice = vector[row, 2 * foundation : 2 * foundation + 2]
        problem = f"both poles of {FOUNDATIONS[foundation]} are set ({virtue} and {vice}); expected at most one above 0"
        raise DataError(problem, file=file, row=row + 1, column=DIMENSIONS[2 * foundation])


def from_records(
    records: Iterable[tuple[str, str, np.ndarray, int]],
    provenance: Mapping[str, Any],
    *,
    file: str | None = None,
    lines: Sequence[int] | None = None,
) -> MoralData:
    """`MoralData` from (id, text, moral vector, foundation index) records: pole and typicality follow from the vector.

    Args:
        file: where the records are from, for errors.
        lines: the line of each, for errors.

    Raises:
        DataError: as `MoralData`.
    """
    ids, texts, vectors, foundations = [], [], [], []
    for identifier, text, vector, foundation in records:
        ids.append(identifier)
        texts.append(text)
        vectors.append(vector)
        foundations.append(foundation)
    lengths = {len(vector) for vector in vectors} - {len(DIMENSIONS)}
    if lengths:
        raise DataError(f"a moral vector of {lengths.pop()} numbers; expected ten: {', '.join(DIMENSIONS)}")
    vector = np.asarray(vectors, dtype=np.float64).reshape(len(ids), len(DIMENSIONS))
    foundation = np.asarray(foundations, dtype=np.int64)
    own = _own_strengths(vector, np.where(foundation < len(FOUNDATIONS), foundation, NO_FOUNDATION))
    # A vector that belongs to no foundation has no own dimension; MoralData refuses it unless it is zero.
    own = np.where(foundation[:, None] >= 0, own, 0.0)
    pole = np.where(own.max(axis=1) > 0, own.argmax(axis=1), NEUTRAL)
    try:
        return MoralData(
            text=tuple(texts),
            vector=vector,
            foundation=foundation,
            pole=pole,
            typicality=own.max(axis=1),
            id=tuple(ids),
            provenance=dict(provenance),
        )
    except DataError as error:
        raise error.within(file, lines[error.row - 1] if lines is not None and error.row else None) from None


def _own_strengths(vector: Float[np.ndarray, "n 10"], foundation: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n 2"]:
    """Virtue and vice strength of each record's own foundation; where it has none, the largest of each pole."""
    by_foundation = vector.reshape(-1, len(FOUNDATIONS), 2)
    own = by_foundation[np.arange(len(vector)), np.maximum(foundation, 0)]
    return np.where(foundation[:, None] >= 0, own, by_foundation.max(axis=1))
