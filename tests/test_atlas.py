"""The atlas: what its file may say, what is measured once, how models are compared, what the page shows."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sae_moral.capture
from sae_moral import DataError
from sae_moral._cli_atlas import add_atlas
from sae_moral.atlas import Atlas, Entry, Plan, atlas, read_plan
from sae_moral.atlas.likeness import baseline_pairs, matched_layers, profile_correlations, variant_pairs
from sae_moral.capture import run as capture_run
from sae_moral.diagnosis import diagnose
from sae_moral.metrics import metric, registry
from sae_moral.metrics.preprocess import preprocess
from sae_moral.protocol import AUDITED
from sae_moral.report.atlas_page import render_atlas
from sae_moral.studies.cka import linear_cka
from tests.tiny import save_tiny_model, scenarios

REPLICATION = Path(__file__).resolve().parents[1] / "benchmarks" / "replication"
HEAD = "data: table.jsonl\nmetrics: pole_gap\ncontrols: none\n"
MODELS = """models:
  - {name: A-base, model: m0, family: A, variant: base}
  - {name: A-chat, model: m1, family: A, variant: instruct}
  - {name: B, model: m1, layers: "0,2"}
"""


@pytest.fixture(scope="module", autouse=True)
def pole_gap() -> Iterator[None]:
    """A metric that costs nothing, under both protocols."""
    before, threads = dict(registry._registered), torch.get_num_threads()
    torch.set_num_threads(1)  # more cost more than they give on matrices this small

    @metric(headline="gap", chance=0.0)
    def pole_gap(x: Any, data: Any) -> dict[str, float]:
        return {"gap": float((x[data.pole == 0].mean(0) - x[data.pole == 1].mean(0)).norm())}

    yield
    registry._registered.clear()
    registry._registered.update(before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed in range(2):
        save_tiny_model(folder / f"m{seed}", seed=seed)
    data = scenarios(120)
    lines = (json.dumps({"text": t, "vector": v}) for t, v in zip(data.text, data.vector.tolist(), strict=True))
    (folder / "table.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def plan_file(two_models: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes the file of an atlas; the single models' reports, a second each, are left out."""
    monkeypatch.setattr("sae_moral.diagnosis.Diagnosis.report", lambda diagnosis, path: path)

    def write(text: str) -> Path:
        path = two_models / "models.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a model was loaded, and how many texts went through one."""
    calls: Counter[str] = Counter()
    load, pool = sae_moral.capture.load_model, capture_run.forward_run

    def load_model(name: str, **options: Any) -> Any:
        calls["loaded"] += 1
        calls[Path(name).name] += 1
        return load(name, **options)

    def body(*given: Any) -> Any:
        calls["forward passes"] += 1
        return pool(*given)

    monkeypatch.setattr(sae_moral.capture, "load_model", load_model)
    monkeypatch.setattr(capture_run, "forward_run", body)
    return calls


@pytest.fixture(scope="module")
def finished(two_models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Atlas, Path]:
    """An atlas of a family, an unrelated model and one that cannot be loaded."""
    path, out = two_models / "finished.yaml", tmp_path_factory.mktemp("finished")
    failing = "  - {name: gone, model: nowhere-at-all, family: A, variant: guard}\n"
    path.write_text(HEAD + "limit: 100\n" + MODELS + failing)
    return atlas(path, out, progress=False), out


def test_a_model_that_fails_is_reported_and_the_others_go_on(finished: tuple[Atlas, Path]) -> None:
    found, out = finished
    assert list(found.failures) == ["gone"]
    assert found.failures["gone"].startswith("could not be loaded: cannot load 'nowhere-at-all'")
    assert "Traceback" in (out / "gone" / "error.txt").read_text()
    assert [list(entry["results"]) for entry in found.entries] == [["audited", "paper"]] * 3 + [[]]


def test_results_are_those_of_diagnose(finished: tuple[Atlas, Path], two_models: Path) -> None:
    found, out = finished
    alone = diagnose(str(two_models / "m1"), two_models / "table.jsonl", metrics=["pole_gap"], layers="0,2", limit=100)
    gap = {row.layer: row.value for row in alone.rows}
    (headline,) = found.entries[2]["results"]["audited"]["headlines"]
    assert dict(zip(headline["layers"], headline["profile"], strict=True)) == pytest.approx(gap)
    assert headline["value"] == max(headline["profile"]) == pytest.approx(gap[headline["layer"]])
    assert {path.name for path in (out / "B" / "audited").iterdir()} >= {"diagnosis.json", "report.html", "key.json"}


def test_similarity_is_that_of_the_vectors(finished: tuple[Atlas, Path], two_models: Path) -> None:
    found, _ = finished
    (pair,) = [pair for pair in found.similarities if pair["kind"] == "variants"]
    assert (pair["a"], pair["b"], pair["family"], pair["error"]) == ("A-base", "A-chat", "A", None)
    assert [(row["layer_a"], row["layer_b"]) for row in pair["layers"]] == [(0, 0), (1, 1), (2, 2)]
    data = sae_moral.load_data(two_models / "table.jsonl").sample(100, seed=AUDITED.seed)
    once = np.array([data.group.tolist().index(group) for group in sorted(set(data.group.tolist()))])
    text = [data.text[i] for i in once]
    captured = [
        sae_moral.capture.capture(sae_moral.load_model(two_models / name, device="cpu"), text) for name in ("m0", "m1")
    ]
    raw = [one[1] for one in captured]
    prepared = [preprocess(one[1], one.length, AUDITED.preprocessing)[0] for one in captured]
    assert pair["n_texts"] == len(text)
    assert pair["layers"][1]["raw"] == pytest.approx(linear_cka(*raw), abs=1e-4)
    assert pair["layers"][1]["cka"] == pytest.approx(linear_cka(*prepared), abs=1e-4)


def test_a_model_is_like_itself_and_unrelated_ones_are_a_baseline(
    plan_file: Callable[[str], Path], tmp_path: Path
) -> None:
    twins = "models: [{name: X, model: m0, family: F}, {name: Y, model: m0, family: F}, {name: Z, model: m1}]"
    found = atlas(plan_file(f"{HEAD}protocols: audited\n{twins}"), tmp_path, progress=False)
    same, baseline = found.similarities
    assert [same["kind"], baseline["kind"]] == ["variants", "baseline"]
    assert [row[name] for row in same["layers"] for name in ("cka", "raw")] == pytest.approx([1.0] * 6, abs=1e-9)
    assert all(row["cka"] < 0.5 for row in baseline["layers"])
    assert same["profiles"][0]["mean_difference"] == 0 and same["profiles"][0]["spearman"] is None  # of 3 layers


def test_a_killed_run_goes_on_where_it_ended(
    plan_file: Callable[[str], Path], tmp_path: Path, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plan_file(HEAD + MODELS)
    load = sae_moral.capture.load_model

    def killed(name: str, **options: Any) -> Any:
        if counted["loaded"] == 1:
            raise KeyboardInterrupt
        return load(name, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sae_moral.capture, "load_model", killed)
        atlas(path, tmp_path, progress=False)
    assert counted["m0"] == counted["loaded"] == 1
    of_one_model = counted["forward passes"]
    first = (tmp_path / "A-base" / "audited" / "diagnosis.json").read_bytes()
    found = atlas(path, tmp_path, progress=False)
    assert counted == {"loaded": 3, "m0": 1, "m1": 2, "forward passes": 3 * of_one_model}
    assert (tmp_path / "A-base" / "audited" / "diagnosis.json").read_bytes() == first
    again = atlas(path, tmp_path, progress=False)
    assert counted["loaded"] == 3 and counted["forward passes"] == 3 * of_one_model and not again.failures
    assert (again.entries, again.similarities) == (found.entries, found.similarities)


def test_what_shapes_a_result_is_in_its_key(
    plan_file: Callable[[str], Path], tmp_path: Path, counted: Counter[str]
) -> None:
    plan = read_plan(plan_file(f"{HEAD}protocols: audited\nmodels: [{{name: A, model: m0}}]"))
    atlas(plan, tmp_path, progress=False)
    for changed in (
        dataclasses.replace(plan, limit=50),
        dataclasses.replace(plan, metrics=("categorical", "pole_gap")),
        dataclasses.replace(plan, entries=(dataclasses.replace(plan.entries[0], dtype="bfloat16"),)),
        dataclasses.replace(plan, entries=(dataclasses.replace(plan.entries[0], layers="1"),)),
    ):
        before = counted["loaded"]
        atlas(changed, tmp_path, progress=False)
        assert counted["loaded"] == before + 1


def test_deleted_vectors_are_captured_again_only_for_a_new_pair(
    plan_file: Callable[[str], Path], tmp_path: Path, counted: Counter[str]
) -> None:
    models = [f"{{name: X{seed}, model: m{seed}, family: F}}" for seed in range(2)]
    text = f"{HEAD}protocols: [audited, paper]\nmodels: [%s]"
    atlas(plan_file(text % models[0]), tmp_path, delete_stores=True, progress=False)
    assert not (tmp_path / "X0" / "store").exists()
    of_one_model = counted["forward passes"]
    whole = atlas(plan_file(text % ", ".join(models)), tmp_path, delete_stores=True, progress=False)
    assert counted["forward passes"] == 2 * of_one_model + 1 and len(whole.similarities[0]["layers"]) == 3
    again = atlas(plan_file(text % ", ".join(models)), tmp_path, delete_stores=True, progress=False)
    assert counted["loaded"] == 3 and again.similarities == whole.similarities


def test_controls_are_handed_on_only_if_given(
    plan_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def noted(*args: Any, **options: Any) -> Any:
        seen.append(options.pop("controls", "not given"))
        return diagnose(*args, **options)

    monkeypatch.setattr("sae_moral.diagnosis.diagnose", noted)
    one = "data: table.jsonl\nmetrics: pole_gap\nlimit: 60\nprotocols: audited\nmodels: [{name: A, model: m0}]"
    atlas(plan_file(one), tmp_path, progress=False)
    atlas(plan_file(f"controls: off\n{one}"), tmp_path, progress=False)
    assert seen == ["not given", "off"]


def test_round_trip_and_table(finished: tuple[Atlas, Path]) -> None:
    found, out = finished
    loaded = Atlas.load(out)
    assert (loaded.entries, loaded.similarities, loaded.provenance) == (
        found.entries,
        found.similarities,
        found.provenance,
    )
    table = found.table().set_index(["name", "protocol"])
    assert len(table) == 8
    assert table.loc[("A-base", "audited"), "pole_gap_layer"] in (0, 1, 2)
    assert table.loc[("gone", "paper"), "error"] == found.failures["gone"]
    assert "A-base · A-chat" in found.summary() and "pole_gap gap" in found.summary()
    (out / "other.json").write_text('{"kind": "diagnosis"}')
    with pytest.raises(DataError, match="whose kind is 'atlas'"):
        Atlas.load(out / "other.json")


def test_the_page_shows_table_curves_profiles_and_failures(finished: tuple[Atlas, Path]) -> None:
    found, out = finished
    html = found.report(out).read_text()
    for expected in (
        "could not be loaded: cannot load &#39;nowhere-at-all&#39;",
        "base · instruct",
        "Family A",
        "Unrelated models",
        'href="A-base/audited/report.html"',
        "CKA over the depth",
        "Headlines over the layers, protocol paper",
        "does not prove",
    ):
        assert expected in html
    assert (
        "href="
        not in found.report(out / "elsewhere" / "page.html").read_text().split("<tbody>")[1].split("</tbody>")[0]
    )
    assert not re.search(r"\bnan\b", html, re.IGNORECASE)


def test_published_numbers_stand_beside_the_paper_protocol_only(finished: tuple[Atlas, Path]) -> None:
    entries = copy.deepcopy(finished[0].entries)
    for entry in entries:
        for result in entry["results"].values():
            result["headlines"][0] |= {"metric": "dimensional", "statistic": "r2"}
    found = dataclasses.replace(finished[0], entries=entries)
    table = found.table().set_index(["name", "protocol"])["dimensional_published"]
    assert table.dropna().to_dict() == {(name, "paper"): "at most 0.26, adjusted" for name in ("A-base", "A-chat", "B")}
    assert render_atlas(found).count("at most 0.26, adjusted") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [", "not a YAML file"),
        ("", "nothing; expected a mapping"),
        ("models: []", "at least one model"),
        ("data: a\ndata: b\nmodels: [{name: A, model: m}]", "'data' stands twice"),
        ("protocol: paper\nmodels: [{name: A, model: m}]", "unknown key 'protocol'; did you mean 'protocols'"),
        ("protocols: audit\nmodels: [{name: A, model: m}]", "did you mean 'audited'"),
        ("limit: many\nmodels: [{name: A, model: m}]", "limit is 'many'"),
        ("layers: first\nmodels: [{name: A, model: m}]", "expected all, a number"),
        ("models: [{name: A, model: m, dtyp: float16}]", "model 1: unknown key 'dtyp'; did you mean 'dtype'"),
        ("models: [{name: A, model: m, revision: x}]", "model 1: unknown key 'revision'"),
        ("models: [{name: A, model: m}, {name: B}]", "model 2: no model"),
        ("models: [{name: A, model: m}, {name: a, model: m}]", "model 2: the name 'a' is taken"),
        ("models: [{name: ../A, model: m}]", "names a folder"),
        ("models: [{name: A, model: m, dtype: float8}]", "model 1 \\(A\\): unknown dtype 'float8'; did you mean"),
        ("models: [{name: A, model: [m]}]", "model 1: model is \\['m'\\]; expected text"),
        ("models: [A]", "model 1: str; expected a mapping"),
    ],
)
def test_what_is_wrong_in_the_file(text: str, message: str, plan_file: Callable[[str], Path]) -> None:
    with pytest.raises(DataError, match=f"models.yaml.*{message}"):
        read_plan(plan_file(text))


def test_yaml_does_not_turn_text_into_something_else(plan_file: Callable[[str], Path]) -> None:
    plan = read_plan(plan_file("layers: 1:30:6\ncontrols: off\nmodels: [{name: 1.5, model: m, layers: [0, 3]}]"))
    assert plan.controls == "off" and plan.entries[0].name == "1.5" and plan.entries[0].layers == "0,3"
    assert read_plan(plan_file("layers: 1:30:6\nmodels: [{name: A, model: m}]")).entries[0].layers == "1:30:6"


def test_an_unknown_metric_is_found_before_a_model_is_loaded(
    plan_file: Callable[[str], Path], tmp_path: Path, counted: Counter[str]
) -> None:
    plan = read_plan(plan_file(HEAD.replace("pole_gap", "dimensionl") + MODELS))
    with pytest.raises(ValueError, match="did you mean 'dimensional'"):
        atlas(plan, tmp_path, progress=False)
    assert not counted


def entry(name: str, family: str, variant: str | None = None, lineage: str | None = None) -> Entry:
    return Entry(name, name, family, variant, lineage or family, "all", "float32")


def test_pairs() -> None:
    entries = [
        entry("a-chat", "a", "instruct"), entry("a-base", "a", "base"), entry("b", "b", None, "a"),
        entry("c", "c"), entry("d", "d"), entry("e", "e"),
    ]  # fmt: skip
    assert [(x.name, y.name) for x, y in variant_pairs(entries)] == [("a-chat", "a-base")]
    assert [(x.name, y.name) for x, y in baseline_pairs(entries)] == [("a-base", "c"), ("a-base", "d"), ("c", "d")]


def test_layers_stand_against_those_of_equal_depth() -> None:
    assert matched_layers([0, 2, 5], 6, [0, 1, 2], 6) == [(0, 0), (2, 2)]
    assert matched_layers([0, 1, 2, 3], 4, [1, 3, 5, 7], 8) == [(0, 1), (1, 3), (2, 5), (3, 7)]
    assert matched_layers([1, 3, 5, 7], 8, [0, 3], 4) == [(1, 0), (7, 3)]
    assert matched_layers([0], 30, [9], 10) == []


def test_profile_correlations() -> None:
    def result(profile: list[float | None]) -> dict[str, Any]:
        layers = list(range(len(profile)))
        headline = {"metric": "m", "statistic": "s", "layers": layers, "profile": profile}
        return {"layers": layers, "n_layers": len(profile), "headlines": [headline]}

    (found,) = profile_correlations(result([1.0, 2.0, None, 4.0, 9.0]), result([2.0, 3.0, 1.0, 5.0, 10.0]))
    assert (found["layers"], found["mean_difference"]) == (4, 1.0)
    assert (found["spearman"], found["pearson"]) == pytest.approx((1.0, 1.0))
    (few,) = profile_correlations(result([1.0, 2.0, 3.0]), result([1.0, 2.0, 4.0]))
    assert few["spearman"] is None and few["mean_difference"] == pytest.approx(1 / 3)
    (flat,) = profile_correlations(result([1.0] * 5), result([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert flat["pearson"] is None


def test_command(plan_file: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    add_atlas(parser.add_subparsers())
    text = f"{HEAD}protocols: audited\nmodels: [{{name: A, model: m0}}, {{name: gone, model: nowhere-at-all}}]"
    arguments = parser.parse_args(["atlas", str(plan_file(text)), "--out", str(tmp_path), "--device", "cpu"])
    assert arguments.run(arguments) == 1
    printed = capsys.readouterr()
    assert str(tmp_path / "atlas.html") in printed.out and "gone could not be loaded" in printed.err


def test_the_files_we_ship_can_be_read() -> None:
    paper = read_plan(REPLICATION / "paper_models.yaml")
    assert len(paper.entries) == 23 and {entry.dtype for entry in paper.entries} == {"bfloat16"}
    assert len({pair[0].lineage for pair in baseline_pairs(paper.entries)}) > 1
    bundled: Plan = read_plan(REPLICATION / "bundled_models.yaml")
    assert {entry.model for entry in bundled.entries} <= set(sae_moral.capture.BUNDLED)
