"""Texts that belong together although they are not equal: near-equal ones, families of words, values of the user's.

Records of one group never fall on both sides of a fold or split, and are drawn and permuted together
(`sae_moral.controls.draws`). Groups of equal text hold what is one scenario typed twice. They leave apart what a
reader could carry over without understanding: "lying to a friend" and "lying to my friends", *abuse* and *abuser*.

What it does not prove: that texts of different groups have nothing in common. Paraphrases without a shared word are
apart, and so is one author or topic, unless the user gives them as groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from jaxtyping import Bool, Float, Int

from sae_moral.data.text import words
from sae_moral.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from sae_moral.data.moral_data import MoralData

KINDS: tuple[str, str] = ("equal", "near")
"""`equal`: equal text, after `normalise`. `near`: near-equal texts too; of single words, families."""
NEAR = 0.5
"""Cosine of TF-IDF vectors of words from which two texts are near."""
LARGEST, FEW = 0.05, 10
"""Share of the records that a group of near texts may hold; in small data so many records, up to a tenth of them."""
PREFIX = 5
"""Letters that the words of a family have in common."""
ONE_WORD = 0.9
"""Share of texts that are one word, from which data are a list of words."""
_BLOCK = 4_000_000
"""Products of a block at most: what bounds the memory."""
_NEGATIONS = ("anti", "dis", "il", "im", "in", "ir", "mis", "non", "un")


def is_kind(groups: object) -> TypeGuard[str]:
    """Whether it is a name of `KINDS`, which every source can be grouped by."""
    return isinstance(groups, str) and groups in KINDS


@dataclass(frozen=True)
class Near:
    """Near texts.

    Attributes:
        group: of each text.
        facts: how they were found, and what the bound on a group's size left apart. JSON values.
    """

    group: Int[np.ndarray, "m"]
    facts: Mapping[str, Any]


def near_groups(texts: Sequence[str], count: Int[np.ndarray, "m"]) -> Near:
    """Groups of near texts.

    Of sentences: connected components of the graph of pairs whose TF-IDF vectors of words have a cosine of `NEAR` or
    more. A component of more than `LARGEST` of the records is built up from its nearest pairs on, and a pair that would
    make it larger is left apart. Of single words: families that share a stem's first letters, a negation
    (*un-*, *dis-*, …) set aside where the rest is a word of the list, too; too large a family is cut into stems.

    Args:
        texts: distinct normalised texts.
        count: records of each.
    """
    split = [words(text) or [text] for text in texts]
    n = int(count.sum())
    largest = max(1, int(LARGEST * n), min(FEW, n // 10))
    single = np.array([len(one) == 1 for one in split])
    if single.mean() >= ONE_WORD:
        stem, family = _families([text if alone else "" for text, alone in zip(texts, single, strict=True)])
        too_large = np.bincount(family, weights=count) > largest
        group = np.where(too_large[family], len(texts) + stem, family)
        facts = {"by": "families of words", "letters": PREFIX, "largest_allowed": largest}
        cut = {"groups_cut": int(too_large.sum())}
        return Near(np.unique(group, return_inverse=True)[1].reshape(-1), {"kind": "near", **facts, **cut})
    first, second, cosine = _pairs(_tfidf(split), NEAR)
    group = _joined(len(texts), first, second)
    too_large = np.bincount(group, weights=count) > largest
    group = _bounded(group, too_large[group], (first, second, cosine), count, largest)
    apart = group[first] != group[second]
    facts = {"by": "cosine of TF-IDF of words", "threshold": NEAR, "largest_allowed": largest}
    cut = {"groups_cut": int(too_large.sum()), "pairs": len(first), "pairs_left_apart": int(apart.sum())}
    return Near(group, {"kind": "near", **facts, **cut})


def user_groups(values: Sequence[object] | np.ndarray, same: Int[np.ndarray, "n"]) -> Near:
    """Groups of the user's: one value per record. Records of one text are joined, whatever their values.

    Args:
        values: numbers or strings.
        same: index of each record's normalised text.

    Raises:
        ValueError: not one value per record.
        DataError: a record without a value.
    """
    listed = list(values)
    if len(listed) != len(same):
        raise ValueError(f"{len(listed)} values of groups for {len(same)} records; expected one each")
    for row, value in enumerate(listed):
        if value is None or value != value or value == "":
            problem = "no group; expected a value for every record, or the text itself where it stands alone"
            raise DataError(problem, row=row + 1, column="groups")
    own = _numbered([str(value) for value in listed])
    n = int(own.max()) + 1
    joined = _joined(n + int(same.max()) + 1, own, n + same)[own]
    lost = n - len(np.unique(joined))
    return Near(joined, {"kind": "own", "joined_by_equal_texts": lost})


def groups_of(data: MoralData) -> dict[str, Any]:
    """What provenance says of groups: how they were made, how many there are, the records of the largest, and the
    records whose group holds another text. JSON values."""
    size = np.unique(data.group, return_counts=True)[1]
    pairs = np.unique(np.stack([data.group, data.same_text]), axis=1)
    texts = np.unique(pairs[0], return_counts=True)[1]
    counts = {"n_groups": len(size), "largest": int(size.max()), "n_with_other_texts": int(size[texts > 1].sum())}
    return {"kind": "equal", **data.provenance.get("groups", {}), **counts}


# Near texts


def _tfidf(texts: Sequence[Sequence[str]]) -> csr_matrix:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer=list, dtype=np.float64)  # pyright: ignore[reportArgumentType]
    return vectorizer.fit_transform(texts)


def _pairs(x: csr_matrix, least: float) -> tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"], Float[np.ndarray, "p"]]:
    """All pairs i < j of rows of unit length whose inner product is `least` or more, and these products.

    Exact, without most of the products: with columns in one order, rare ones first, a row's last columns are left out
    as long as their norm stays below `least`. Two rows without a common column among those kept are not near: beyond
    where the first of the two ends, their product is at most the norm of what it left out.
    """
    rare = _rare_first(x, least)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    width = np.bincount(rare.indices, minlength=rare.get_shape()[1])
    load = np.concatenate([[0], np.cumsum(rare.astype(bool) @ width)])
    for start, stop in _blocks(load):
        i, j = (rare[start:stop] @ rare.T).nonzero()
        i, j = (i + start)[i + start < j], j[i + start < j]
        products = [x[a].multiply(x[b]).sum(axis=1) for a, b in zip(_parts(i), _parts(j), strict=True)]
        cosine = np.concatenate([np.asarray(one).reshape(-1) for one in products])
        near = cosine >= least - 1e-12  # for a cosine that rounding puts below
        found.append((i[near], j[near], cosine[near]))
    first, second, cosine = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return first.astype(np.int64), second.astype(np.int64), cosine


def _rare_first(x: csr_matrix, least: float) -> csr_matrix:
    """What of each row is needed to find its neighbours."""
    from scipy.sparse import csr_matrix

    n, columns = x.get_shape()
    order = np.argsort(np.bincount(x.indices, minlength=columns), kind="stable")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    row = np.repeat(np.arange(n), np.diff(x.indptr))
    common_first = np.lexsort((-place[x.indices], row))
    square = np.cumsum(x.data[common_first] ** 2)
    before = np.concatenate([[0.0], square])[x.indptr[:-1]]
    kept = common_first[square - before[row] >= least**2 - 1e-9]
    return csr_matrix((np.ones(len(kept)), (row[kept], x.indices[kept])), shape=(n, columns))


def _blocks(load: Int[np.ndarray, "_"]) -> Iterator[tuple[int, int]]:
    """Runs of rows that need at most `_BLOCK` products, or one row that needs more; `load`: products before each."""
    start = 0
    while start < len(load) - 1:
        stop = max(start + 1, int(np.searchsorted(load, load[start] + _BLOCK, side="right")) - 1)
        yield start, stop
        start = stop


def _parts(index: Int[np.ndarray, "p"]) -> list[Int[np.ndarray, "_"]]:
    return np.array_split(index, max(1, -(-len(index) // 100_000)))


def _joined(n: int, first: Int[np.ndarray, "p"], second: Int[np.ndarray, "p"]) -> Int[np.ndarray, "n"]:
    """Connected components."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _bounded(
    group: Int[np.ndarray, "m"],
    cut: Bool[np.ndarray, "m"],
    pairs: tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"], Float[np.ndarray, "p"]],
    count: Int[np.ndarray, "m"],
    largest: int,
) -> Int[np.ndarray, "m"]:
    """The texts to `cut` joined anew, nearest pairs first, as long as a group has at most `largest` records."""
    first, second, cosine = (part[cut[pairs[0]]] for part in pairs)
    parent, size = list(range(len(group))), count.tolist()

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for k in np.lexsort((second, first, -np.round(cosine, 9))):
        a, b = sorted((root(int(first[k])), root(int(second[k]))))
        if a != b and size[a] + size[b] <= largest:
            parent[b], size[a] = a, size[a] + size[b]
    roots = np.array([root(i) for i in range(len(group))], dtype=np.int64)
    return np.unique(np.where(cut, len(group) + roots, group), return_inverse=True)[1].reshape(-1)


# Families of words


def _families(texts: Sequence[str]) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]:
    """The stem and the family of each word; "" is one of its own each time."""
    stem = [_stem(text) if text else "" for text in texts]
    known = {one for one in stem if one}
    for i, text in enumerate(texts):
        rest = next((text[len(one) :] for one in _NEGATIONS if text.startswith(one) and len(text) > len(one) + 3), "")
        if rest and (rest.startswith("-") or _stem(rest) in known):
            stem[i] = _stem(rest.lstrip("-"))
    short = {one for one in known if len(one) == PREFIX - 1}
    # "care" is of the family of "carer", although its stem has a letter less than families share.
    key = [one[: PREFIX - 1] if one[: PREFIX - 1] in short else one[:PREFIX] for one in stem]
    alone = [f"{i} alone" for i in range(len(stem))]
    stems, keys = ([one or other for one, other in zip(names, alone, strict=True)] for names in (stem, key))
    return _numbered(stems), _numbered(keys)


def _numbered(names: Sequence[str]) -> Int[np.ndarray, "m"]:
    return np.unique(np.array(names), return_inverse=True)[1].reshape(-1)


@lru_cache(maxsize=1)
def _stemmer() -> Any:
    from nltk.stem.snowball import SnowballStemmer

    return SnowballStemmer("english")


def _stem(word: str) -> str:
    return _stemmer().stem(word)
