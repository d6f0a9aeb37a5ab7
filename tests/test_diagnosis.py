"""`diagnose` and `Diagnosis`: the contract of DESIGN, from a model to a file and back."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_moral import AUDITED, Controls, Diagnosis, diagnose, metric
from sae_moral.controls import NAMES
from sae_moral.data.moral_data import from_records
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS
from sae_moral.protocol import parse_layers
from tests.tiny import scenarios

AGAINST = {
    "nuisance",
    "random weights",
    "opening word",
    "bag of words",
    "input embeddings",
    "valence words",
    "valence reader",
}
FEW = Controls(names=tuple(name for name in NAMES if name != "learning-curve"), resamples=50, permutations=19)


@pytest.fixture(scope="module")
def audited(tiny_folder: Path) -> Diagnosis:
    return diagnose(str(tiny_folder), scenarios(), device="cpu", controls=FEW)


@pytest.fixture(scope="module")
def paper(tiny_folder: Path) -> Diagnosis:
    return diagnose(str(tiny_folder), scenarios(), protocol="paper", device="cpu", controls="none")


def rows_of(diagnosis: Diagnosis) -> list[Any]:
    """The rows; which of their numbers are None depends on the controls."""
    return list(diagnosis.rows)


def test_every_metric_gives_its_headline_at_every_layer(audited: Diagnosis) -> None:
    found = {(row.metric, row.layer) for row in audited.rows if row.headline}
    assert found == {(m, layer) for m in ("categorical", "gradient", "structural", "dimensional") for layer in range(3)}
    assert {len(audited.profiles[metric].values) for metric in audited.metrics} == {3}


def test_rows_of_the_paper_protocol_follow_the_contract(paper: Diagnosis) -> None:
    groups: dict[tuple[str, str], set[str]] = {}
    for row in paper.rows:
        groups.setdefault((row.metric, row.statistic), set()).add(row.group)
    assert groups[("categorical", "cosine")] == set(FOUNDATIONS)
    assert groups[("gradient", "spearman")] == {*DIMENSIONS, "overall"}
    assert groups[("dimensional", "r2")] == {*DIMENSIONS, "overall"}
    for statistic in ("ari_foundation", "ari_polarity", "ari_both", "noise"):
        assert groups[("structural", statistic)] == {"overall"}


def test_what_was_not_computed_is_null(paper: Diagnosis) -> None:
    # 240 scenarios of random labels make no cluster of 100: everything is noise, and no ARI exists.
    noise = [row for row in paper.rows if row.statistic == "noise"]
    ari = [row for row in paper.rows if row.statistic.startswith("ari_")]
    assert {row.value for row in noise} == {1.0}
    assert {row.value for row in ari} == {None}
    assert {row.n_dropped for row in ari} == {240}
    assert {getattr(row, key) for row in paper.rows for key in ("ci_low", "p_value", "ceiling", "baseline")} == {None}
    assert "structural" not in paper.peaks and "structural" not in paper.profiles
    assert paper.verdicts == {} == paper.baselines and paper.provenance["controls"] is None


def test_peaks_and_profiles_need_no_controls(paper: Diagnosis) -> None:
    peak, profile = paper.peaks["gradient"], paper.profiles["gradient"]
    assert peak.value == max(value for value in profile.values if value is not None)
    assert (profile.layers[profile.values.index(peak.value)], peak.n_layers, peak.p_value) == (peak.layer, 3, None)
    cosine = paper.peaks["categorical"]
    values = [value for value in paper.profiles["categorical"].values if value is not None]
    assert (cosine.group, cosine.value, len(values)) == ("mean of groups", min(values), 3)


def test_controls_fill_the_columns_and_say_what_they_found(audited: Diagnosis) -> None:
    headlines = [row for row in rows_of(audited) if row.headline and row.group == "overall"]
    for row in headlines:
        assert row.ci_low <= row.ci_high and row.null_low <= row.null_high
        assert 1 / 20 <= row.p_value <= 1 and row.baseline is not None
    controls = audited.provenance["controls"]
    assert controls is not None
    metrics = ["categorical", "gradient", "structural", "dimensional"]
    assert list(audited.verdicts) == list(audited.peaks) == metrics
    assert {(c.metric, c.against) for c in audited.comparisons} == {
        (name, against) for name in metrics for against in AGAINST
    }
    columns, valence = controls.get("columns"), controls.get("valence")
    assert columns is not None and columns["valence words"] == 3 and "input embeddings" not in columns
    assert valence is not None and [len(line) for line in valence["auroc_by_set"]] == [4, 4, 4]
    embeddings, reader = (
        audited.baselines[name].profiles["gradient"] for name in ("input embeddings", "valence reader")
    )
    assert (embeddings.layers, len(embeddings.values), reader.layers) == ((), 1, (0, 1, 2))
    twin = audited.baselines["random weights"].profiles["gradient"]
    assert (twin.layers, len(twin.values)) == ((0, 1, 2), 3)
    best = int(np.argmax(np.array(twin.values, dtype=float)))
    assert [low is not None for low in twin.ci_low] == [layer == best for layer in range(3)]
    assert [len(share) for share in controls["explained_by_nuisance"].values()] == [3, 3, 3, 3]
    assert json.loads(json.dumps(audited.provenance, allow_nan=False))["controls"] == controls
    cosines = [row for row in rows_of(audited) if row.statistic == "cosine" and row.value is not None]
    assert cosines and all(0 <= row.ceiling <= 1 for row in cosines)


def test_the_random_twin_keeps_the_scenarios_that_matching_kept(tiny: Any) -> None:
    settings = replace(FEW, names=("interval", "random-weights"))
    found = diagnose(tiny, scenarios(), match="length", metrics=["categorical"], layers=[0], controls=settings)
    comparison = found.comparisons[0]
    assert comparison.against == "random weights" and comparison.difference != 0


def test_ceiling_follows_from_the_agreement_of_repeated_annotations(tiny: Any) -> None:
    data = scenarios(120)
    twice = from_records(
        [
            (f"{i}-{copy}", data.text[i], data.vector[i] * (1 - copy * 0.3 * (i % 4 == 0)), int(data.foundation[i]))
            for copy in range(2)
            for i in range(len(data))
        ],
        {"source": "invented"},
    )
    found = diagnose(tiny, twice, metrics=["gradient", "dimensional"], layers=[0], controls="none")
    reliability = found.provenance["ceilings"]["typicality"]
    assert reliability is not None
    assert reliability["ci_low"] > 0 and reliability["ranks"]
    filled = {(row.metric, row.statistic, row.group): row.ceiling for row in found.rows if row.ceiling}
    assert set(filled) == {("gradient", "spearman", "overall"), ("dimensional", "spearman_valence", "overall")}
    assert filled["gradient", "spearman", "overall"] == pytest.approx(reliability["value"] ** 0.5)
    assert found.peaks["gradient"].ceiling_low == pytest.approx(reliability["ci_low"] ** 0.5)
    assert found.peaks["gradient"].ceiling_high == pytest.approx(reliability["ci_high"] ** 0.5)


def test_too_few_repeated_annotations_give_no_ceiling(audited: Diagnosis) -> None:
    ceilings = audited.provenance["ceilings"]
    reliability = ceilings["valence"]
    assert reliability is not None and ceilings["typicality"] is None  # no two of one foundation and pole
    assert reliability["n_texts"] == 9 and reliability["no_ceiling"] == "fewer than 20 texts"
    assert not any(row.ceiling for row in audited.rows if row.metric != "categorical")


def test_matched_lengths_leave_nothing_for_length_to_tell(tiny: Any) -> None:
    found = diagnose(tiny, scenarios(), match="length", metrics=["categorical"], layers=[0], controls="none")
    matched = found.provenance["data"]["matched"]
    assert matched["n_before"] == 240 and 50 < found.provenance["data"]["n"] < 240
    with pytest.raises(ValueError, match="unknown match 'size'; valid: length"):
        diagnose(tiny, scenarios(), match="size", metrics=["categorical"], layers=[0])


def test_save_and_load_are_inverse(audited: Diagnosis, tmp_path: Path) -> None:
    path = audited.save(tmp_path / "out")
    assert path == tmp_path / "out" / "diagnosis.json"
    content = json.loads(path.read_text())
    assert (content["schema_version"], content["kind"]) == (3, "diagnosis")
    for loaded in (Diagnosis.load(path), Diagnosis.load(path.parent)):
        assert isinstance(loaded, Diagnosis)
        for field in dataclasses.fields(Diagnosis):
            assert getattr(loaded, field.name) == getattr(audited, field.name)


def test_provenance_names_everything(audited: Diagnosis, tiny_folder: Path) -> None:
    provenance = audited.provenance
    assert provenance["model"]["name"] == tiny_folder.name
    assert provenance["data"] == {**provenance["data"], "n": 240, "sha256": scenarios().sha256, "source": "invented"}
    assert provenance["protocol"]["preprocessing"] == ["standardise", "remove_length"]
    assert audited.metrics["structural"].parameters == {"components": 50, "folds": 5, "seed": 0, "remove_length": True}
    assert provenance["layers"] == [0, 1, 2]
    assert [len(provenance["preprocessing"][key]) for key in ("length_share", "pc1_share", "pc1_length_r")] == [3, 3, 3]
    assert set(provenance["seconds"]) == {"load", "capture", "measure"}
    assert {"torch", "transformer-lens", "sae-moral"} <= set(provenance["versions"])


def test_paper_says_where_its_prototypes_come_from(tiny_folder: Path) -> None:
    data = scenarios()
    keep = ~((data.typicality == 1.0) & (data.foundation == 1) & (data.pole == 0))
    found = diagnose(
        str(tiny_folder), data.subset(keep), protocol="paper", metrics=["categorical"], device="cpu", controls="none"
    ).provenance
    assert found["prototypes"] is not None
    assert found["prototypes"]["fairness"]["typicality"] == 0.75
    assert found["prototypes"]["care"]["typicality"] == 1.0
    assert any(warning.startswith("fairness: no item of typicality 1.0") for warning in found["warnings"])


def test_same_call_same_numbers(audited: Diagnosis, tiny_folder: Path) -> None:
    again = diagnose(str(tiny_folder), scenarios(), device="cpu", controls=FEW)
    assert again.rows == audited.rows


def test_a_metric_of_ten_lines_gets_what_a_built_in_gets(
    tiny_folder: Path, tmp_path: Path, clean_registry: None
) -> None:
    script = '''
from sae_moral import diagnose, metric
from tests.tiny import scenarios

@metric(headline="spread", means="Norm of the mean vice vector over that of the mean virtue vector.")
def pole_norms(x, data):
    return {"spread": float(x[data.pole == 1].mean(0).norm() / x[data.pole == 0].mean(0).norm())}

diagnosis = diagnose(MODEL, scenarios(), metrics=["categorical", pole_norms])
print(diagnosis.summary())
diagnosis.save(OUT), diagnosis.report(OUT + "/report.html")
'''.strip().replace("MODEL", repr(str(tiny_folder))).replace("OUT", repr(str(tmp_path / "out")))  # fmt: skip
    assert len(script.splitlines()) <= 11
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    loaded = Diagnosis.load(tmp_path / "out")
    rows = [row for row in rows_of(loaded) if row.metric == "pole_norms"]
    assert [row.layer for row in rows] == [0, 1, 2] and all(row.value > 0 and row.n == 240 for row in rows)
    assert all(row.ci_low < row.value < row.ci_high and 0 < row.p_value <= 1 for row in rows)
    assert all(row.null_low < row.null_high and row.baseline > 0 for row in rows)
    assert {c.against for c in loaded.comparisons if c.metric == "pole_norms"} == AGAINST - {"random weights"}
    assert loaded.metrics["pole_norms"].means.startswith("Norm of the mean")
    assert "pole_norms" in done.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert "pole_norms" in page and "Norm of the mean vice vector" in page


def test_registered_metric_is_found_by_name(tiny: Any, clean_registry: None) -> None:
    @metric(headline="n")
    def how_many(x: Any, data: Any) -> dict[str, float]:
        return {"n": float(len(x))}

    found = diagnose(tiny, scenarios(60), metrics=["how_many"], layers=0, controls="none")
    assert [row.value for row in found.rows] == [60.0]


def test_inside_a_chat_template(tiny: Any, tmp_path: Path) -> None:
    tiny.tokenizer.chat_template = "<s>{% for m in messages %}morally {{ m.content }}</s>{% endfor %}"
    data, options = scenarios(60), {"controls": "none", "metrics": ["categorical"]}
    chat = diagnose(tiny, data, template="chat: is {text} .", **options)
    written = "<s>morally is {text} .</s>"
    assert chat.provenance["protocol"]["name"] == "audited, chat"
    assert chat.provenance["protocol"]["template"] == chat.provenance["capture"]["template"] == written
    by_hand = replace(AUDITED, template=written, bos="none")
    assert rows_of(chat) == rows_of(diagnose(tiny, data, protocol=by_hand, **options))
    assert rows_of(chat) != rows_of(diagnose(tiny, data, **options))
    page = chat.report(tmp_path / "report.html").read_text(encoding="utf8")
    assert "What the model read: <code>&lt;s&gt;morally is {text} .&lt;/s&gt;</code>" in page
    own = diagnose(tiny, data, template="{text} is morally", **options)
    assert rows_of(own) == rows_of(
        diagnose(tiny, data, protocol=replace(AUDITED, template="{text} is morally"), **options)
    )


def test_limit_keeps_the_shares(tiny: Any) -> None:
    found = diagnose(tiny, scenarios(), limit=120, metrics=["categorical"], layers=[0], controls="none")
    assert found.provenance["data"]["n"] == 120
    assert found.provenance["data"]["sampled"] == {"n": 120, "seed": 0}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", list(range(30))),
        ("3", [3]),
        (3, [3]),
        ("0,5,9", [0, 5, 9]),
        ("0:30:5", [0, 5, 10, 15, 20, 25]),
        (":3", [0, 1, 2]),
        ([9, 0, 9], [0, 9]),
        ("-1", [29]),
    ],
)
def test_layers(layers: Any, expected: list[int]) -> None:
    assert parse_layers(layers, 30) == expected


@pytest.mark.parametrize("layers", ["30", "a", "1:2:3:4", "", "5:5", "-31", "0,30", "::0"])
def test_layers_that_do_not_exist(layers: str) -> None:
    with pytest.raises(ValueError, match="layers"):
        parse_layers(layers, 30)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"protocol": "papr"}, "unknown protocol 'papr'; did you mean 'paper'"),
        ({"metrics": ["categoric"]}, "unknown metric 'categoric'; did you mean 'categorical'"),
        ({"metrics": ["gradient", "gradient"]}, "metrics given twice"),
        ({"layers": "0:9:x"}, "layers '0:9:x'; expected"),
        ({"limit": 0}, "expected at least 1"),
        ({"controls": "nul"}, "unknown control 'nul'; did you mean 'null'"),
        ({"data": "moralstrenght"}, "did you mean 'moralstrength'"),
        ({"template": "chat: is it right?"}, "template 'chat: is it right.'; expected exactly one {text}"),
        ({"template": "chat"}, "has no chat template"),
        ({"match": "size"}, "unknown match 'size'; valid: length"),
        (
            {"protocol": replace(AUDITED, preprocessing=("center",))},
            "unknown preprocessing step 'center'; did you mean",
        ),
        ({"data": scenarios(60).subset(np.array([0, 0, 0]))}, "1 distinct text; the audited protocol needs at least 5"),
        ({"data": scenarios(60).subset(np.arange(6))}, "6 scenarios; the control 'nuisance' needs at least 7"),
    ],
)
def test_bad_arguments_say_what_would_be_right_before_anything_runs(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: dict[str, Any], problem: str
) -> None:
    def runs(*_: Any, **__: Any) -> None:
        raise AssertionError("the model ran before everything was checked")

    monkeypatch.setattr(tiny, "forward", runs)
    store = tmp_path / "store"
    with pytest.raises(ValueError, match=problem):
        diagnose(tiny, **{"data": scenarios(60), "store": store, **arguments})
    assert not store.exists()


def test_something_that_is_no_model() -> None:
    with pytest.raises(ValueError, match="list is not a model with hooks"):
        diagnose([1, 2], scenarios(60))


def test_import_is_light() -> None:
    heavy = ("torch", "pandas", "sklearn", "transformers", "matplotlib")
    code = f"import sys; from sae_moral import diagnose; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_report_is_written(audited: Diagnosis, paper: Diagnosis, tmp_path: Path) -> None:
    for name, diagnosis in (("audited", audited), ("paper", paper)):
        page = diagnosis.report(tmp_path / f"{name}.html").read_text()
        assert "categorical" in page and "<svg" in page
    assert len(audited.figure().axes) >= 4
