"""What Python and notebooks show of every result: one line, and a small table."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_moral_inspect.judging import Judgement
from sae_moral_inspect.results import FlamesResults

import sae_moral
from sae_moral import Diagnosis
from sae_moral.capture import Representations
from sae_moral.sae import TrainedSaes
from sae_moral.sae.moral_latents import MoralLatents
from sae_moral.shown import LINE, ROWS, at, in_short, shown
from sae_moral.steering import Direction, Steering
from sae_moral.steering.effects import Effects
from sae_moral.studies import Atlas, Sweep
from sae_moral.studies.compared_saes import ComparedSaes, SaeComparison
from sae_moral.tables import Table
from tests.steering.planted import operated, random_sae
from tests.tiny import scenarios

ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT / "tests" / "data_files" / "v0.1"
SETTINGS = set(
    "Protocol Controls TrainSettings SAELensConfig SurgerySettings MeasureSettings Wording Entry Term Bundled".split()
)
"""What one writes down is printed as one writes it."""
WORKING_PARTS = set(
    "Variants Prepared Permutations Draws Subject BaselineKind Labels Batch Place Row Measurement".split()
)
"""Of metrics, controls and hooks: nobody is handed one. (Row: of a table that is being read.)"""
API = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf8"), re.MULTILINE)


def classes() -> list[type]:
    found: dict[type, None] = {}
    plugin = [f"sae_moral_inspect.{part}" for part in ("results", "stats", "answers", "prompts", "judging")]
    for name in (*API, *plugin):
        own = [value for value in vars(importlib.import_module(name)).values() if isinstance(value, type)]
        found |= {value: None for value in own if value.__module__ == name and value.__name__[0] != "_"}
    found |= {value: None for name in sae_moral.__all__ if isinstance(value := getattr(sae_moral, name), type)}
    return [value for value in found if dataclasses.is_dataclass(value)]


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_every_result_is_shown_whatever_it_holds(cls: Any) -> None:
    """Of every class on the page of the API: bad content, too, and without its computed facts."""
    if cls.__name__ in SETTINGS or (cls.__name__ in WORKING_PARTS and cls.__module__ != "sae_moral.results.types"):
        assert not hasattr(cls, "_repr_html_")
        return
    contents: tuple[Any, ...] = (
        "<b>line</b>\n" * 1000, np.zeros((1000, 7)), {str(i): np.zeros(9) for i in range(1000)}, [1.5] * 1000, None,
        torch.zeros(3, 4), ["a"], {}, (), 1e-9, [dataclasses],
    )  # fmt: skip
    for content in contents:
        made = object.__new__(cls)
        for field in dataclasses.fields(cls):
            object.__setattr__(made, field.name, content)
        check(made)
    check(object.__new__(cls))  # as a debugger meets it in __post_init__


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.count = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.opened.append(tag)
        self.count += tag == "tr"

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


def check(result: Any) -> None:
    line, page = repr(result), result._repr_html_()
    assert len(line) <= LINE and "\n" not in line
    assert line.startswith(f"{type(result).__name__}(") and line.endswith(")")
    found = Tags(page)
    assert found.opened == [] and found.count >= 1
    assert page.startswith("<table") and len(page) < 40_000 and "<b>line" not in page


def everything(result: Any) -> Iterator[Any]:
    """The result, and all results in it."""
    if hasattr(result, "_repr_html_") and dataclasses.is_dataclass(result):
        yield result
        for field in dataclasses.fields(result):
            yield from everything(getattr(result, field.name))
    elif isinstance(result, Mapping | list | tuple):
        for one in result.values() if isinstance(result, Mapping) else result:
            yield from everything(one)


def made() -> dict[str, tuple[Any, list[str]]]:
    """One of each kind, and what must stand in its line."""
    data, sae = scenarios(60), random_sae("standard")
    operation = operated(sae)
    wide = {name: np.zeros((5000, 10)) for name in ("selection_r", "paper_r")}
    wide |= {"passes": np.arange(50_000).reshape(5000, 10) % 1001 == 0}
    model: Any = {"name": "tiny"}
    about: Any = {"data": {"source": "invented"}, "measured": ["care"], "n": {"texts": 9}}
    row = SaeComparison("wide", "0" * 64, 3, 512, "topk", "categorical", "auroc", 0.8, 0.7, -0.1, -0.2, 0.0, 0.9, None)
    indices = np.arange(60)
    return {
        "Diagnosis": (Diagnosis.load(FILES / "audited-all.json"), ["model=tiny", "data=invented", "protocol=audited"]),
        "Atlas": (Atlas.load(FILES / "atlas.json"), ["entries="]),
        "Sweep": (Sweep.load(FILES / "sweep.json"), ["model="]),
        "MoralData": (data, ["source=invented", "n=60", "vector=float64 [60, 10]"]),
        "Representations": (
            Representations((0, 1), indices, indices, indices, {}, read=lambda layer: torch.zeros(60, 8)),
            ["n=60", "layers=0, 1"],
        ),
        "LoadedSae": (sae, ["d_sae="]),
        "MoralLatents": (
            MoralLatents(3, {"source": "wide"}, about, {}, {}, wide),
            ["sae=wide", "latents=5000", "moral=50", "layer=3"],
        ),
        "Operation": (operation, [f"layer={operation.layer}", "control=none"]),
        "Steering": (Steering(operation, 0.5), ["alpha=0.5", "form=edit"]),
        "Direction": (Direction(2, torch.ones(4), "mean"), ["name=mean", "layer=2"]),
        "Effects": (Effects({"is": [[0.1] * 5000]}, {"3": {"categorical": 0.7}}, 0.01, 1.0, None, None), ["kl=0.01"]),
        "ComparedSaes": (ComparedSaes([row] * 70, model, "0" * 32, {}), ["model=tiny", "70 × SaeComparison"]),
        "TrainedSaes": (TrainedSaes(Path("saes"), {}), ["folder=saes"]),
        "FlamesResults": (
            FlamesResults.load(ROOT / "plugins/sae-moral-inspect/tests/data/results-0.1.json"), ["arms=", "wins="],
        ),
        "Judgement": (Judgement("j", 0, reply="so\n" * 999, verdict="A"), ["judge=j"]),
    }  # fmt: skip


def test_results_say_what_they_are() -> None:
    kinds = set()
    for name, (result, words) in made().items():
        assert type(result).__name__ == name
        assert [word for word in words if word not in repr(result)] == []
        for one in everything(result):
            check(one)
            kinds.add(type(one).__name__)
    assert len(kinds) > 30
    assert {"Row", "Peak", "Profile", "Verdict", "MetricCard", "SweepRow", "AtlasEntry", "WinRow"} <= kinds


def test_tables_below_the_facts() -> None:
    found = {name: result._repr_html_() for name, (result, _) in made().items()}
    assert "best baseline" in found["Diagnosis"] and "beyond" in found["Diagnosis"]
    assert (
        '<th scope="row">care</th>' in found["MoralLatents"] and '<th scope="row">care-harm</th>' in found["MoralData"]
    )
    assert "… and 50 more" in found["ComparedSaes"] and found["ComparedSaes"].count("<tr>") < ROWS + 12
    for name in ("Sweep", "Atlas", "FlamesResults", "Operation", "TrainedSaes"):
        assert found[name].count("<table") >= 2, name


def test_the_line_of_a_result_with_a_long_name() -> None:
    @shown(facts=lambda one: {"n": 3}, tables=lambda one: [Table(["a"], [["<i>"]])])
    @dataclasses.dataclass
    class Long:
        name: str
        n: int = 1

    assert repr(Long("x")) == "Long(n=3, name=x)"
    assert len(repr(Long("x" * 1000))) == LINE
    made: Any = Long("x")
    assert "&lt;i&gt;" in made._repr_html_()


@pytest.mark.parametrize(
    "value, words",
    [
        (None, "–"), (True, "True"), (3, "3"), (0.123456, "0.1235"), ("a", "a"), ([], "0"), ({}, "0 entries"),
        ([1, 2], "1, 2"), (object(), "object"), ([1.0] * 1200, "1,200 × float"), ({"a": 1, "b": []}, "a, b"),
        ({i: 1 for i in range(9)}, "9 entries"), (np.zeros((2, 3)), "float64 [2, 3]"), (torch.zeros(2), "float32 [2]"),
        (len, "len"), (Path("x"), "x"), (np.float32(0.5), "0.5"), (np.int64(3), "3"), (torch.tensor(2.0), "2"),
    ],
)  # fmt: skip
def test_in_short(value: object, words: str) -> None:
    assert in_short(value) == words


def test_at() -> None:
    assert at({"a": {"b": 1}}, "a", "b") == 1
    assert at({"a": {"b": 1}}, "a", "c") is at({"a": 2}, "a", "b") is at(None, "a") is None
