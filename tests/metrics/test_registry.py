"""The registry: entry points, the decorator, instances."""

from __future__ import annotations

import dataclasses
import inspect
from importlib.metadata import EntryPoint
from typing import Any, cast

import pytest

from sae_moral.metrics import evaluate, get_metric, metric, metric_names, register, registry, resolve_metrics
from sae_moral.metrics.base import FunctionMetric, Metric, Prepared, Preparing, card_of, declared
from sae_moral.metrics.categorical import AuditedCategorical, PaperCategorical
from sae_moral.metrics.dimensional import AuditedDimensional, PaperDimensional
from sae_moral.metrics.gradient import AuditedGradient, PaperGradient
from sae_moral.metrics.structural import AuditedStructural, PaperStructural
from sae_moral.protocol import AUDITED, PAPER
from sae_moral.results import StatisticSpec
from tests.metrics.worlds import planted

BUILT_IN = ["categorical", "gradient", "structural", "dimensional"]


@pytest.fixture(autouse=True)
def forget_what_a_test_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def declare(monkeypatch: pytest.MonkeyPatch, **entries: str) -> None:
    found = {name: EntryPoint(name, value, registry.GROUP) for name, value in entries.items()}
    monkeypatch.setattr(registry, "_declared", lambda: found)


def constant(name: str) -> FunctionMetric:
    return FunctionMetric(name, "a", lambda x, data: {"a": 1.0})


@pytest.mark.parametrize(
    ("protocol", "classes"),
    [
        (PAPER, [PaperCategorical, PaperGradient, PaperStructural, PaperDimensional]),
        (AUDITED, [AuditedCategorical, AuditedGradient, AuditedStructural, AuditedDimensional]),
    ],
)
def test_the_entry_points_give_the_four_built_ins_in_the_form_the_protocol_asks_for(
    protocol: Any, classes: list[type]
) -> None:
    made = [get_metric(name, protocol) for name in BUILT_IN]
    assert [type(m) for m in made] == classes
    assert [m.name for m in made] == BUILT_IN
    assert all(isinstance(m, Metric) for m in made)


def test_folds_and_seed_of_the_protocol_reach_the_metrics() -> None:
    protocol = dataclasses.replace(AUDITED, folds=3, seed=7)
    made = cast(list[Any], [get_metric(name, protocol) for name in BUILT_IN])
    assert {(m.folds, m.seed) for m in made} == {(3, 7)}
    assert cast(Any, get_metric("dimensional", dataclasses.replace(PAPER, seed=7))).seed == 7


def test_all_metrics_are_the_built_ins_in_their_order_and_then_the_registered_ones_by_name() -> None:
    register(constant("zebra"))
    register(constant("ant"))
    names = [m.name for m in resolve_metrics(None, AUDITED)]
    assert names[:4] == BUILT_IN
    assert [name for name in names[4:] if name in ("ant", "zebra")] == ["ant", "zebra"]
    assert set(names) == set(metric_names())


def test_the_decorator_registers_under_the_functions_name_and_keeps_the_attributes() -> None:
    @metric(headline="a", chance=0.5, means="A sentence.", raw=True)
    def my_metric(representation: Any, data: Any) -> dict[str, float | None]:
        return {"a": float(len(data))}

    assert get_metric("my_metric", AUDITED) is my_metric
    assert (my_metric.means, my_metric.raw) == ("A sentence.", True)
    assert my_metric.statistics == (StatisticSpec("a", chance=0.5),)
    assert evaluate(my_metric, *planted(0, n=30, d=2))[0].value == 30.0


def test_the_decorator_takes_another_name() -> None:
    metric(headline="a", name="other")(lambda x, data: {"a": 1.0})
    assert "other" in metric_names()


def test_the_decorator_takes_all_that_a_class_may_declare() -> None:
    def many(x: Any, data: Any) -> Prepared:
        return Prepared(len(data), {}, lambda variants, only=None: {("a", "overall"): variants.weight.sum(dim=1)})

    further = StatisticSpec("b", "lower", null=None, chance=1.0)
    made = metric(
        headline="a",
        direction="higher",
        null="pole",
        interval="fixed",
        chance=0.5,
        statistics=[further],
        rotation_invariant=True,
        parameters={"pairs": 3},
        prepare=many,
    )(lambda x, data: {"a": 1.0, "b": 2.0})
    assert declared(made) == {"a": StatisticSpec("a", "higher", "pole", "fixed", 0.5), "b": further}
    assert isinstance(made, Preparing) and made.rotation_invariant
    assert card_of(made).parameters == {"pairs": 3}
    assert made.prepare(*planted(0, n=30, d=2)).statistics()[0].value == 30


def test_a_headline_may_be_declared_among_the_statistics_but_not_twice() -> None:
    spec = StatisticSpec("a", "lower", chance=2.0)
    assert declared(metric(headline="a", name="one", statistics=[spec])(lambda x, data: {"a": 1.0})) == {"a": spec}
    with pytest.raises(ValueError, match=r"declares \['a'\] more than once"):
        metric(headline="a", name="two", chance=1.0, statistics=[spec])(lambda x, data: {"a": 1.0})


@pytest.mark.parametrize(("word", "nearest"), [("chnace", "chance"), ("directoin", "direction")])
def test_the_decorator_refuses_what_no_report_would_read(word: str, nearest: str) -> None:
    keywords: dict[str, Any] = {word: 0.5}
    with pytest.raises(TypeError, match=f"unknown keyword of @metric '{word}'; did you mean '{nearest}'"):
        metric(headline="a", name="other", **keywords)(lambda x, data: {"a": 1.0})


@pytest.mark.parametrize(
    ("old", "told"),
    [({"higher_is": "less indifferent"}, "`higher_is` → direction"), ({"nulls": "pole"}, "`nulls` → null")],
)
def test_what_version_0_1_declared_is_an_error_that_says_what_to_declare(old: dict[str, Any], told: str) -> None:
    with pytest.raises(TypeError, match=told) as caught:
        metric(headline="a", name="other", **old)(lambda x, data: {"a": 1.0})
    assert "StatisticSpec('a', direction='higher'" in str(caught.value)
    attributes = {"name": "mine", "headline": "a", "__call__": lambda self, x, data: {"a": 1.0}, **old}
    mine = cast(Any, type("Mine", (), attributes)())
    for refuse in (register, lambda one: resolve_metrics([one], AUDITED)):
        with pytest.raises(TypeError, match=told):
            refuse(mine)


def test_an_interval_of_fits_needs_prepare() -> None:
    with pytest.raises(ValueError, match="interval 'fixed' for 'a', which is for metrics with `prepare`"):
        metric(headline="a", name="other", interval="fixed")(lambda x, data: {"a": 1.0})


class Undeclared:
    name, headline, statistics = "mine", "a", ("a",)

    def __call__(self, representation: Any, data: Any) -> dict[str, float | None]:
        return {"a": 1.0}


def test_declarations_that_are_none_are_refused() -> None:
    with pytest.raises(TypeError, match="expected statistics = "):
        declared(Undeclared())


def test_parameters_that_no_file_could_hold_are_refused() -> None:
    with pytest.raises(TypeError, match=r"metric 'other': .*give it an attribute `parameters`"):
        metric(headline="a", name="other", parameters={"x": object()})(lambda x, data: {"a": 1.0})


def test_what_is_returned_and_not_declared_has_the_default_declaration() -> None:
    made = metric(headline="a", name="other", direction="higher")(lambda x, data: {"a": 1.0, "b": 1.0})
    assert card_of(made, ["a", "b"]).statistics == {
        "a": StatisticSpec("a", "higher"), "b": StatisticSpec("b", None, "all", "resampled")
    }  # fmt: skip


def test_an_unknown_name_is_an_error_with_the_nearest_name_and_all_of_them() -> None:
    register(constant("rsa"))
    with pytest.raises(ValueError, match=r"unknown metric 'categorial'; did you mean 'categorical'\?.*rsa"):
        get_metric("categorial", AUDITED)


@pytest.mark.parametrize("taken", ["categorical", "mine"])
def test_a_taken_name_is_refused_whether_declared_or_registered(taken: str) -> None:
    register(constant("mine"))
    before = metric_names()
    with pytest.raises(ValueError, match=f"{taken!r} exists already"):
        register(constant(taken))
    assert metric_names() == before


def test_the_same_metric_twice_in_one_call_is_refused() -> None:
    with pytest.raises(ValueError, match=r"given twice: \['categorical'\]"):
        resolve_metrics(["categorical", PaperCategorical()], AUDITED)


def test_an_instance_is_used_as_it_is_without_being_registered() -> None:
    mine = constant("unregistered")
    assert resolve_metrics([mine, "gradient"], PAPER) == [mine, PaperGradient()]
    assert "unregistered" not in metric_names()


@pytest.mark.parametrize("item", [3, None, lambda x, data: {}, PaperCategorical])
def test_what_is_neither_a_name_nor_an_instance_is_a_type_error(item: Any) -> None:
    untyped: Any = inspect.unwrap(resolve_metrics)  # without the tests' type checks, as a user calls it
    with pytest.raises(TypeError, match="is not a metric: expected a name, or an instance"):
        untyped([item], AUDITED)


@pytest.mark.parametrize(
    "value",
    ["math:pi", "sae_moral.protocol:get_protocol", "sae_moral.foundations:FOUNDATIONS"],
)
def test_an_entry_point_that_gives_no_metric_is_a_type_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    declare(monkeypatch, odd=value)
    with pytest.raises(
        TypeError, match=rf"entry point 'odd' \({value}\).*expected a metric or a function from Protocol"
    ):
        get_metric("odd", AUDITED)


def test_an_entry_point_that_names_a_class_is_not_mistaken_for_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, odd="sae_moral.metrics.categorical:PaperCategorical")
    with pytest.raises(TypeError):
        get_metric("odd", PAPER)


def test_an_entry_point_may_name_an_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "an_instance_for_this_test", constant("ready"), raising=False)
    declare(monkeypatch, ready="sae_moral.metrics.registry:an_instance_for_this_test")
    assert get_metric("ready", AUDITED).name == "ready"


def test_an_entry_point_whose_package_is_broken_fails_with_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, broken="sae_moral.no_such_module:metric")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        get_metric("broken", AUDITED)


def test_two_packages_that_declare_one_name_are_an_error_that_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    two = [EntryPoint("rsa", value, registry.GROUP) for value in ("one.package:rsa", "another.package:rsa")]
    monkeypatch.setattr(registry, "entry_points", lambda group: two)
    with pytest.raises(ValueError, match=r"declare the metric 'rsa': one\.package:rsa and another\.package:rsa"):
        metric_names()


def test_one_package_found_twice_on_the_path_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [EntryPoint("rsa", "one.package:rsa", registry.GROUP)] * 2
    monkeypatch.setattr(registry, "entry_points", lambda group: twice)
    assert metric_names() == ["rsa"]
