"""The file of an atlas: what it may say, and what is refused, by name and place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae_moral import DataError
from sae_moral.capture import BUNDLED
from sae_moral.studies import Entry, Plan, read_plan
from sae_moral.studies.plan import LARGEST, baseline_pairs, variant_pairs

REPLICATION = Path(__file__).resolve().parents[2] / "benchmarks" / "replication"
ONE = "models: [{name: A, model: m}]"


def plan_of(folder: Path, text: str | bytes) -> Plan:
    path = folder / "models.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_plan(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [", ", row 1: not a YAML file"),
        ("a: b\nmodels: [}", ", row 2: not a YAML file"),
        ("", "nothing; expected a mapping"),
        ("- a", "list; expected a mapping"),
        ("models: []", "at least one model"),
        (f"data: a\ndata: b\n{ONE}", "row 2: .*'data' stands twice"),
        (f"[a, b]: c\n{ONE}", "row 1: .*a key that is not text"),
        (f"{{a: b}}: c\n{ONE}", "row 1: .*a key that is not text"),
        (f"protocol: paper\n{ONE}", "unknown key 'protocol'; did you mean 'protocols'"),
        (f"protocols: audit\n{ONE}", "did you mean 'audited'"),
        (f"limit: many\n{ONE}", "limit is 'many'"),
        (f"limit: 0\n{ONE}", "at least 1"),
        (f"limit: {'9' * 5000}\n{ONE}", "limit is '9999"),
        (f"layers: first\n{ONE}", "expected all, a number"),
        (f"layers: {'1' * 5000}\n{ONE}", "expected all, a number"),
        ("models: [{name: A, model: m, dtyp: float16}]", "model 1: unknown key 'dtyp'; did you mean 'dtype'"),
        ("models: [{name: A, model: m, revison: x}]", "model 1: unknown key 'revison'; did you mean 'revision'"),
        (
            "models: [{name: A, model: gemma-3-270m, revision: x}]",
            r"model 1 \(A\): revision 'x' of gemma-3-270m, which is no hub",
        ),
        ("models: [{name: A, model: m}, {name: B}]", "model 2: no model"),
        ("models: [{name: A, model: m}, {name: a, model: m}]", "model 2: the name 'a' is taken"),
        ("models: [{name: ../A, model: m}]", "names a folder"),
        ("models: [{name: '.', model: m}]", "names a folder"),
        ("models: [{name: A., model: m}]", "names a folder"),
        (f"models: [{{name: {'A' * 65}, model: m}}]", "at most 64"),
        ("models: [{name: A, model: m, dtype: float8}]", r"model 1 \(A\): unknown dtype 'float8'; did you mean"),
        ("models: [{name: A, model: [m]}]", r"model 1: model is \['m'\]; expected text"),
        ('models: [{name: A, model: "m\\0"}]', "model 1: model is 'm"),
        ("models: [A]", "model 1: str; expected a mapping"),
        (b"models: [{name: A, model: \xff}]", "row 1: byte .* is not UTF-8"),
        ("models: " + "[" * 20_000, "nested too deeply"),
        ("#" * (LARGEST + 1), "expected a plan of at most"),
        ("models: [{name: A, model: '\x07'}]", "not a YAML file"),
    ],
)
def test_what_is_wrong_in_the_file(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"models.yaml.*{message}"):
        plan_of(tmp_path, text)


@pytest.mark.parametrize("name", ["pairs", "store", "Cells", "atlas.json", "CON", "nul.txt", "com1", "LPT9"])
def test_names_that_have_another_use_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"models.yaml: model 1: the name '{name}' is reserved"):
        plan_of(tmp_path, f"models: [{{name: {name}, model: m}}]")
    assert plan_of(tmp_path, f"models: [{{name: model-{name}, model: m}}]").entries[0].name == f"model-{name}"


def test_aliases_are_refused_before_they_are_expanded(tmp_path: Path) -> None:
    lines = ["data: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"k{i}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]" for i in range(20)]
    with pytest.raises(DataError, match=r"models.yaml, row 2: .*an alias \(\*name\); write the value out"):
        plan_of(tmp_path, "\n".join(lines))
    with pytest.raises(DataError, match=r"row 1: .*an alias"):
        plan_of(tmp_path, "models: [&m {name: A, model: m}, *m]")


def test_yaml_does_not_turn_text_into_something_else(tmp_path: Path) -> None:
    models = "[{name: 1.5, model: m, layers: [0, 3]}, {name: yes, model: m}]"
    plan = plan_of(tmp_path, f"layers: 1:30:6\ncontrols: off\nmodels: {models}")
    assert plan.controls == "off" and [entry.name for entry in plan.entries] == ["1.5", "yes"]
    assert [entry.layers for entry in plan.entries] == ["0,3", "1:30:6"]


def test_folders_are_found_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    models = f"[{{name: A, model: m}}, {{name: B, model: n}}, {{name: C, model: {'x' * 400}}}]"
    plan = plan_of(tmp_path, f"data: t.csv\nmodels: {models}")
    assert [entry.model for entry in plan.entries] == [str(tmp_path / "m"), "n", "x" * 400]
    assert plan.data == str(tmp_path / "t.csv") and plan_of(tmp_path, f"data: vignettes\n{ONE}").data == "vignettes"


SOME = st.recursive(
    st.text(max_size=8) | st.sampled_from(["A", "m", "all", "audited", "float32", "1"]),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "model", "models", "layers", "data", "limit", "x"]), inside, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.binary(max_size=60) | st.text(max_size=60) | SOME.map(lambda value: yaml.safe_dump(value)))
def test_whatever_a_file_holds_it_is_a_plan_or_an_error_with_its_name(text: Any, tmp_path: Path) -> None:
    try:
        assert isinstance(plan_of(tmp_path, text), Plan)
    except DataError as error:
        assert str(error).startswith(str(tmp_path / "models.yaml"))


def entry(name: str, family: str, variant: str | None = None, lineage: str | None = None) -> Entry:
    return Entry(name, name, family, variant, lineage or family, "all", "float32")


def test_pairs() -> None:
    entries = [
        entry("a-chat", "a", "instruct"), entry("a-base", "a", "base"), entry("b", "b", None, "a"),
        entry("c", "c"), entry("d", "d"), entry("e", "e"),
    ]  # fmt: skip
    assert [(x.name, y.name) for x, y in variant_pairs(entries)] == [("a-chat", "a-base")]
    assert [(x.name, y.name) for x, y in baseline_pairs(entries)] == [("a-base", "c"), ("a-base", "d"), ("c", "d")]


def test_the_files_we_ship_can_be_read() -> None:
    paper = read_plan(REPLICATION / "paper_models.yaml")
    assert len(paper.entries) == 23 and {entry.dtype for entry in paper.entries} == {"bfloat16"}
    assert len({pair[0].lineage for pair in baseline_pairs(paper.entries)}) > 1
    bundled = read_plan(REPLICATION / "bundled_models.yaml")
    assert {entry.model for entry in bundled.entries} <= set(BUNDLED)
