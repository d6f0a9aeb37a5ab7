"""Social-Chemistry-101: invented tables in its schema, read, counted independently, damaged; the stratified sample."""

from __future__ import annotations

import csv
import json
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_moral.data import (
    MoralData,
    build,
    load_data,
    load_social_chem,
    paper_split,
    stratified_sample,
    verification_table,
    verify,
)
from sae_moral.data.cells import NOTHING
from sae_moral.data.moral_data import from_records
from sae_moral.data.social_chem_tsv import COLUMNS, MEMBER, read_annotations
from sae_moral.foundations import FOUNDATIONS, NEUTRAL, POLARITIES, VICE, VIRTUE, moral_vector
from tests.data.invented_social_chem import FULL, HEADER, write_table
from tests.forks import killed_until

_CELLS = {
    "m": "1", "rot-bad": "0", "rot-moral-foundations": "care-harm|loyalty-betrayal", "action": "hiding a kite",
    "action-moral-judgment": "-1.0", "action-agree": "3.0", "rot-id": "rot/1",
}  # fmt: skip


def _line(**changes: str) -> str:
    cells = {name.replace("-", "_"): value for name, value in _CELLS.items()} | changes
    return "\t".join(cells.get(name.replace("-", "_"), "x") for name in HEADER)


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines under the header, as bytes."""

    def write(*lines: str | bytes, header: str = "\t".join(HEADER), end: bytes = b"\n", name: str = "t.tsv") -> Path:
        encoded = [line.encode("utf8") if isinstance(line, str) else line for line in (header, *lines)]
        path = tmp_path / name
        path.write_bytes(b"".join(line + end for line in encoded))
        return path

    return write


def _independent(path: Path) -> tuple[Counter[tuple[str, str, float]], list[tuple[int, str]]]:
    """A few lines of csv: records per (foundation, pole, typicality), and (number, action) of each id."""
    counts: Counter[tuple[str, str, float]] = Counter()
    ids: list[tuple[int, str]] = []
    with path.open(encoding="utf8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            needed = [row[c] for c in ("action", "rot-moral-foundations", "action-moral-judgment", "action-agree")]
            if row["rot-bad"] == "0" and row["m"] == "1" and not NOTHING & set(needed):
                strength = float(needed[2]) * float(needed[3]) / 8
                pole = "virtue" if strength > 0 else "vice" if strength < 0 else "neutral"
                counts.update((name, pole, abs(strength)) for name in needed[1].split("|"))
                ids.append((len(ids), needed[0]))
    return counts, ids


def _agrees(path: Path) -> None:
    counts, ids = _independent(path)
    data = load_social_chem(path)
    cells = zip(data.foundation.tolist(), data.pole.tolist(), data.typicality.tolist(), strict=True)
    assert Counter((FOUNDATIONS[f], POLARITIES[p], t) for f, p, t in cells) == counts
    assert dict.fromkeys(zip(data.id, data.text, strict=True)) == {(f"socialchem_{i:06d}", t): None for i, t in ids}
    assert data.provenance["n_ids"] == len(ids)
    assert data.provenance["n"] == len(data) == counts.total()
    read = data.provenance["n_read"]
    assert read == sum(1 for _ in path.open("rb")) - 1
    assert len(ids) + sum(found["count"] for found in data.provenance["dropped"].values()) == read


def test_the_schema_is_the_published_one() -> None:
    assert tuple(HEADER) == COLUMNS
    assert len(COLUMNS) == 25


def test_a_fiftieth_of_the_size_agrees_with_an_independent_count(tmp_path: Path) -> None:
    _agrees(write_table(tmp_path / "table.tsv"))


@pytest.mark.slow
def test_the_full_size_agrees_with_an_independent_count(tmp_path: Path) -> None:
    _agrees(write_table(tmp_path / "table.tsv", FULL))


def test_a_row_becomes_a_record_per_foundation(table: Callable[..., Path]) -> None:
    path = table(
        _line(),
        _line(action_moral_judgment="2", action_agree="4", rot_moral_foundations="sanctity-degradation", action="x y"),
        _line(action_moral_judgment="-2", action_agree="0"),
        _line(rot_bad="1"), _line(m="5"), _line(action="None"), _line(action=" "), _line(rot_moral_foundations=""),
        _line(action_moral_judgment=""), _line(action_agree="nan"), _line(action="last"),
    )  # fmt: skip
    data = load_data(path)
    numbers = [0, 0, 1, 2, 2, 3, 3]
    assert data.id == tuple(f"socialchem_{i:06d}" for i in numbers)
    assert data.foundation.tolist() == [0, 2, 4, 0, 2, 0, 2]
    assert data.pole.tolist() == [VICE, VICE, VIRTUE, NEUTRAL, NEUTRAL, VICE, VICE]
    assert data.typicality.tolist() == [0.375, 0.375, 1.0, 0, 0, 0.375, 0.375]
    np.testing.assert_array_equal(data.vector[0], moral_vector(-1, 3, ["care-harm", "loyalty-betrayal"]))
    found = data.provenance
    assert found["dropped"] == {
        "marked bad": {"count": 1, "first_rows": [5]},
        "no action": {"count": 2, "first_rows": [7, 8]},
        "no foundation": {"count": 1, "first_rows": [9]},
        "no judgment": {"count": 1, "first_rows": [10]},
        "no agreement": {"count": 1, "first_rows": [11]},
        "several annotators (m > 1)": {"count": 1, "first_rows": [6]},
    }
    assert (found["licence"], found["n_read"], found["n_ids"], found["published_file"]) == (
        "CC BY-SA 4.0",
        11,
        4,
        False,
    )
    assert json.loads(json.dumps(found)) == found


def test_quotes_and_tabs_in_a_text_are_read_as_csv_writes_them(table: Callable[..., Path]) -> None:
    texts = ('the "blue" kite', "a\tb", '"', "U+2028:\u2028 stays", "it's 5\" long, \\ and 'so'")
    path = table()
    with path.open("a", encoding="utf8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerows([{**_CELLS, "action": text}.get(name, "x") for name in HEADER] for text in texts)
    assert load_social_chem(path).text[::2] == texts


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("zipped", [False, True])
def test_line_ends_marks_and_zips_do_not_matter(
    tmp_path: Path, table: Callable[..., Path], end: bytes, bom: str, zipped: bool
) -> None:
    expected = load_social_chem(table(_line(), _line(characters='"a ""b"""')))
    path = table(_line(), _line(characters='"a ""b"""'), end=end, header=bom + "\t".join(HEADER))
    if zipped:
        plain, path = path, tmp_path / "any name"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(plain, f"social-chem-101/{MEMBER}")
            archive.writestr("__MACOSX/._x.tsv", "x")
            archive.writestr("social-chem-101/README.md", "x")
    data = load_social_chem(path)
    assert data.sha256 == expected.sha256
    unended = table(_line(), _line(), end=end)
    unended.write_bytes(unended.read_bytes().removesuffix(end))
    assert len(load_social_chem(unended)) == len(data)


def test_text_after_a_closing_quote_is_read_as_pandas_does_and_counted(table: Callable[..., Path]) -> None:
    import pandas as pd

    path = table(_line(), _line(action='"so" it goes'), _line(action='say "so"'), _line(characters='"a" b'))
    data = load_social_chem(path)
    assert data.text[::2] == tuple(pd.read_csv(path, sep="\t")["action"])
    assert data.text[2:5:2] == ("so it goes", 'say "so"')
    assert data.provenance["irregular"] == {"count": 2, "first_rows": [3, 5]}
    assert data.provenance["ids_as_published"] is True


_COLUMNS = "\t".join(HEADER)


@pytest.mark.parametrize(
    ("header", "column", "word"),
    [
        (_COLUMNS.replace("action-agree\t", ""), "action-agree", "missing column; did you mean 'action-agency'"),
        (_COLUMNS.replace("action-agree", "action_agree"), "action-agree", "did you mean 'action_agree'"),
        (_COLUMNS + "\tnew", "new", "unknown column"),
        (_COLUMNS + "\taction", "action", "named twice"),
        ("m\tarea\t" + _COLUMNS.removeprefix("area\tm\t"), "m", "in place 1, where 'area' belongs"),
        (_COLUMNS.replace("\t", ","), None, "the first line is one column"),
    ],
)
def test_another_header_is_refused(
    table: Callable[..., Path], refused: Callable[..., None], header: str, column: str | None, word: str
) -> None:
    path = table(_line(), header=header)
    refused(lambda: load_social_chem(path), word, file="t.tsv", row=1, column=column)
    if column:
        refused(lambda: load_data(path), word, file="t.tsv", row=1, column=column)


@pytest.mark.parametrize(
    ("line", "column", "word"),
    [
        (_line().rsplit("\t", 1)[0], None, "24 fields; expected 25"),
        (_line() + "\tx", None, "26 fields; expected 25"),
        ("", None, "0 fields; expected 25"),
        (_line(action='"never closed'), None, "unexpected end of data; expected a field with quotes"),
        (_line(area='"open', action='"a" b'), None, "16 fields; expected 25"),
        (_line(action='"a" b', characters='"open'), None, "0 fields; expected 25"),
        (_line(action='"a" b').rsplit("\t", 1)[0], None, "24 fields; expected 25"),
        (_line(action="caf\xe9").encode("latin1"), None, "byte 0xe9 is not UTF-8"),
        (_line(action="a\0b"), None, "a NUL byte"),
        (_line(action="a\rb"), None, "new-line character"),
        (_line(action_moral_judgment="3"), "action-moral-judgment", "'3'; expected a whole number from -2 to 2"),
        (_line(action_moral_judgment="0.5"), "action-moral-judgment", "'0.5'; expected a whole number"),
        (_line(action_agree="many"), "action-agree", "'many'; expected a whole number from 0 to 4"),
        (_line(rot_bad=""), "rot-bad", "''; expected a whole number from 0 to 1"),
        (_line(m="0"), "m", "'0'; expected"),
        (_line(rot_moral_foundations="care-hram"), "rot-moral-foundations", "did you mean 'care-harm'"),
        ("\t".join(HEADER), "rot-bad", "'rot-bad'; expected"),
    ],
)
def test_a_malformed_row_is_refused_or_counted(
    table: Callable[..., Path], refused: Callable[..., None], line: str | bytes, column: str | None, word: str
) -> None:
    path = table(_line(), _line(), line, _line(action="after"), line)
    refused(lambda: load_social_chem(path), word, "malformed='drop'", file="t.tsv", row=4, column=column)
    data = load_social_chem(path, malformed="drop")
    reason = "malformed" if column is None else f"malformed {column}"
    assert data.provenance["dropped"] == {reason: {"count": 2, "first_rows": [4, 6]}}
    assert data.text[-1] == "after"  # an open quote swallows nothing
    assert data.provenance["n_read"] == 5
    assert data.provenance["ids_as_published"] is False


def test_a_zip_that_is_none_or_damaged_is_refused(tmp_path: Path, refused: Callable[..., None]) -> None:
    table = write_table(tmp_path / "table.tsv", 2000)
    good, bad = tmp_path / "good.zip", tmp_path / "bad.zip"
    with zipfile.ZipFile(good, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(table, MEMBER)
    whole = good.read_bytes()
    for content, word in (
        (whole[: len(whole) // 2], "damaged or truncated zip archive"),
        (whole[:5000] + b"\0" * 40 + whole[5040:], "damaged or truncated zip archive"),
        (b"<!DOCTYPE html><html><body>403</body></html>", "an HTML or XML page"),
        (b"no archive", "not a zip archive"),
        (b" \n", "empty"),
    ):
        bad.write_bytes(content)
        row = 1 if b"html" in content else None
        for load in (load_social_chem, load_data):
            refused(lambda f=load: f(bad), word, file="bad.zip", row=row)
    for names, word in ((("a.txt",), "0 tables"), (("a.tsv", "b.tsv"), "2 tables")):
        with zipfile.ZipFile(bad, "w") as archive:
            for name in names:
                archive.writestr(name, "x")
        refused(lambda: load_social_chem(bad), word, MEMBER, file="bad.zip")


def test_what_holds_nothing_is_refused(
    table: Callable[..., Path], refused: Callable[..., None], tmp_path: Path, jsonl: Callable[..., Path]
) -> None:
    refused(lambda: load_social_chem(table()), "no rows", file="t.tsv")
    refused(lambda: load_social_chem(table(end=b"")), "a header and no rows", file="t.tsv")
    refused(
        lambda: load_social_chem(table(_line(rot_bad="1"))), "none of 1 rows is usable: marked bad (1)", file="t.tsv"
    )
    refused(lambda: load_social_chem(table(_line(m="3"))), "no annotation with m = 1", file="t.tsv", column="m")
    refused(lambda: load_social_chem(tmp_path), "a folder", file=tmp_path.name)
    own = jsonl([{"text": "hiding a kite", "vector": [0] * 10}])
    refused(lambda: load_social_chem(own), "not Social-Chemistry-101", file="own.jsonl")
    with pytest.raises(FileNotFoundError):
        load_social_chem(tmp_path / "nowhere.tsv")
    with pytest.raises((ValueError, TypeError), match=r"malformed"):
        read_annotations(table(_line()), malformed="ignore")  # type: ignore[arg-type]


def test_build_writes_what_was_read(
    tmp_path: Path, same_data: Callable[..., None], refused: Callable[..., None]
) -> None:
    table = write_table(tmp_path / "table.tsv", 3000)
    data = load_social_chem(table)
    built = build(table, tmp_path / "new" / "built.parquet")
    assert [path.name for path in built.parent.iterdir()] == ["built.parquet"]
    for again in (load_data(built), load_social_chem(built), load_data("social-chem-101-full", path=built)):
        same_data(again, data)
        assert again.provenance == data.provenance
    import pandas as pd

    frame = pd.read_parquet(built)
    assert set(frame["split"]) == {"train", "validation", "test"}
    assert frame.groupby("id")["split"].nunique().max() == 1
    refused(lambda: build(table, tmp_path / "built.csv"), "expected a name like built.parquet", file="built.csv")


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_build_killed_at_any_moment_leaves_nothing_or_all(tmp_path: Path, kills: int) -> None:
    table, folder = write_table(tmp_path / "table.tsv"), tmp_path / "built"
    started = time.perf_counter()
    whole = build(table, tmp_path / "whole.parquet")
    duration = time.perf_counter() - started

    def done() -> None:
        assert (folder / "b.parquet").read_bytes() == whole.read_bytes()
        shutil.rmtree(folder)

    killed_until(lambda: build(table, folder / "b.parquet"), kills, kills, 0, duration, done=done)
    if (folder / "b.parquet").exists():  # killed between the last step and the end of the process
        done()
    assert build(table, folder / "b.parquet").read_bytes() == whole.read_bytes()
    assert [path.name for path in folder.iterdir()] == ["b.parquet"]


def test_the_name_means_the_stratified_sample(tmp_path: Path, same_data: Callable[..., None]) -> None:
    table = write_table(tmp_path / "table.tsv")
    sample = load_data("social-chem-101", path=table)
    same_data(sample, stratified_sample(load_social_chem(table)))
    same_data(load_data("social-chem-101", path=build(table, tmp_path / "b.parquet")), sample)
    assert len(sample) < len(load_data(table)) == len(load_data("social-chem-101-full", path=table))


def test_a_table_larger_than_a_block_is_cut_at_line_ends(tmp_path: Path, monkeypatch: Any) -> None:
    table = write_table(tmp_path / "table.tsv", 500)
    whole = load_social_chem(table)
    monkeypatch.setattr("sae_moral.data.lines.BLOCK", 1000)
    assert load_social_chem(table).sha256 == whole.sha256
    assert load_social_chem(table).provenance == whole.provenance


_SAMPLE = "social-chem-101/stratified_sample.jsonl"


def _sample_row(**changes: Any) -> dict[str, Any]:
    row = {
        "id": "invented_1",
        "action": "hiding a colleague's umbrella",
        "rot-moral-foundations": "care-harm|loyalty-betrayal",
        "moral_vector": [0.0, 0.5, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0],
        "m_virtue": 0.0,
        "m_vice": 0.5,
        "sampled_dimension": "loyalty-betrayal",
        "sample_type": "vice",
        "score_stratum": 0.5,
    }
    return {**row, **changes}


_TYPICAL = _sample_row(
    **{"rot-moral-foundations": "care-harm", "sampled_dimension": "care-harm"},
    moral_vector=[1.0, *[0.0] * 9],
    m_virtue=1.0,
    m_vice=0.0,
    sample_type="virtue_typical",
    score_stratum=1.0,
)
_NEUTRAL = _sample_row(moral_vector=[0.0] * 10, m_vice=0.0, sample_type="neutral", score_stratum=0.0)


def test_each_row_is_the_record_of_its_sampled_dimension(jsonl: Callable[..., Path]) -> None:
    other = _sample_row(sampled_dimension="care-harm")  # the same id and text again
    path = jsonl([_sample_row(), _TYPICAL, _NEUTRAL, other])
    data = load_data(path)
    assert data.foundation.tolist() == [2, 0, 2, 0]
    assert data.pole.tolist() == [VICE, VIRTUE, NEUTRAL, VICE]
    assert data.typicality.tolist() == [0.5, 1.0, 0.0, 0.5]
    assert data.id == ("invented_1",) * 4
    assert data.provenance["source"] == "social-chem-101"
    assert data.provenance["licence"] == "CC BY-SA 4.0"
    assert (data.provenance["file"], data.provenance["n_read"], data.provenance["n"]) == ("own.jsonl", 4, 4)
    assert load_data("social-chem-101", path=path).sha256 == data.sha256


@pytest.mark.parametrize(
    ("changes", "column", "word"),
    [
        ({"m_vice": 0.25}, "m_vice", "0.25 but the vector says 0.5"),
        ({"m_virtue": 0.5}, "m_virtue", "0.5 but the vector says 0.0"),
        ({"score_stratum": 1.0}, "score_stratum", "1.0 but the vector says 0.5"),
        ({"sample_type": "vice_typical"}, "sample_type", "'vice_typical' but the vector says 'vice'"),
        ({"sample_type": "virtue"}, "sample_type", "'virtue' but the vector says 'vice'"),
        ({"sampled_dimension": "fairness-cheating"}, "sampled_dimension", "not among"),
        ({"sampled_dimension": "care-hram"}, "sampled_dimension", "did you mean 'care-harm'"),
        ({"rot-moral-foundations": "loyalty-betrayal"}, "moral_vector", "harm is 0.5; expected 0.0"),
        ({"rot-moral-foundations": "loyalty-betrayel"}, "rot-moral-foundations", "did you mean 'loyalty-betrayal'"),
        ({"moral_vector": [0.5] * 10}, "moral_vector", "both poles of care-harm"),
        ({"moral_vector": [0.5] * 9}, "moral_vector", "9 numbers; expected ten"),
        ({"moral_vector": [2] + [0] * 9}, "moral_vector", "care is 2.0"),
        ({"action": " "}, "action", "empty"),
        ({"action": None}, "action", "None is not text"),
        ({"id": 1.5}, "id", "not an id"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(
    jsonl: Callable[..., Path], refused: Callable[..., None], changes: dict[str, Any], column: str, word: str
) -> None:
    path = jsonl([_TYPICAL, _sample_row(**changes)])
    refused(lambda: load_data(path), word, file="own.jsonl", row=2, column=column)


def test_a_missing_column_is_refused(jsonl: Callable[..., Path], refused: Callable[..., None]) -> None:
    rows = [{("m-vice" if name == "m_vice" else name): value for name, value in _sample_row().items()}]
    path = jsonl(rows)
    refused(lambda: load_social_chem(path), "did you mean 'm-vice'", file="own.jsonl", row=1, column="m_vice")


def test_the_stratified_sample_equals_its_own_vectors(shared: Callable[[str], Path]) -> None:
    path = shared(_SAMPLE)
    rows = [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
    data = load_data(path)
    assert len(data) == len(rows) == 2786
    assert data.text == tuple(row["action"] for row in rows)
    assert data.id == tuple(row["id"] for row in rows)
    np.testing.assert_array_equal(data.vector, [row["moral_vector"] for row in rows])
    assert [FOUNDATIONS[f] for f in data.foundation] == [row["sampled_dimension"] for row in rows]
    np.testing.assert_array_equal(data.typicality, [row["score_stratum"] for row in rows])
    poles = [("virtue", "vice", "neutral").index(row["sample_type"].removesuffix("_typical")) for row in rows]
    assert data.pole.tolist() == poles
    assert Counter(poles) == {VIRTUE: 1172, VICE: 1368, NEUTRAL: 246}


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> MoralData:
    return load_social_chem(write_table(tmp_path_factory.mktemp("table") / "table.tsv", 20_000))


def test_the_stratified_sample_has_the_quotas(tmp_path: Path) -> None:
    data = load_social_chem(write_table(tmp_path / "table.tsv", 60_000))
    sample = stratified_sample(data)
    for foundation in range(5):
        for pole in range(3):
            own = (data.foundation == foundation) & (data.pole == pole)
            drawn = (sample.foundation == foundation) & (sample.pole == pole)
            for level in (0.0,) if pole == NEUTRAL else (0.125, 0.25, 0.375, 0.5, 0.75, 1.0):
                quota = 150 if level == 1 else 300
                assert (drawn & (sample.typicality == level)).sum() == min(
                    quota, (own & (data.typicality == level)).sum()
                )
    assert len(set(zip(sample.id, sample.foundation.tolist(), strict=True))) == len(sample)
    assert [int(name[-6:]) for name in sample.id] == sorted(int(name[-6:]) for name in sample.id)
    assert stratified_sample(data).sha256 == sample.sha256 == stratified_sample(sample).sha256
    assert stratified_sample(data, seed=1).sha256 != sample.sha256
    assert sample.provenance["stratified"]["seed"] == 42
    assert sample.provenance["stratified"]["of"] == len(data)


def test_the_published_sample_is_its_own_sample(shared: Callable[[str], Path]) -> None:
    path = shared("social-chem-101/stratified_sample.jsonl")
    assert load_data("social-chem-101", path=path).sha256 == load_data(path).sha256


def test_nothing_to_sample_is_refused(refused: Callable[..., None]) -> None:
    data = from_records([("a", "hiding a kite", np.array([0, 0.3, *[0] * 8]), 0)], {})
    refused(lambda: stratified_sample(data), "none of typicality 0.125")


def test_verify_compares_every_count(invented: MoralData) -> None:
    counts = {count.name: count for count in verify(invented)}
    assert len(counts) == 28
    assert counts["rows in the table"][1:] == (355_922, 20_000, False)
    assert counts["ids"].found == len(set(invented.id))
    train = invented.subset(paper_split(invented.id)["train"])
    expected = int(((train.foundation == 3) & (train.pole == VICE)).sum())
    assert counts["train: authority-subversion, vice"][1:] == (8_034, expected, False)
    assert counts["texts in several parts of the split by text"].ok
    assert counts["texts in several parts of the split by id"].expected is None
    table = verification_table(verify(invented))
    assert table.splitlines()[-1] == "26 of 27 counts differ"
    assert "differs" not in next(line for line in table.splitlines() if "split by text" in line)


def test_verify_takes_any_data() -> None:
    data = from_records([("a", "waiting", np.zeros(10), -1)], {})
    assert not next(count for count in verify(data) if count.name == "rows in the table").ok
