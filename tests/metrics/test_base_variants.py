"""Versions of a sample: what they hold, what may be moved, where they are computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_moral.metrics.base import Prepared, Statistic, Values, Variants, mean_of_groups


def test_one_is_the_sample_as_it_is() -> None:
    one = Variants.one(4)
    assert (one.index.tolist(), one.weight.tolist(), one.n) == ([[0, 1, 2, 3]], [[1.0] * 4], 1)


def test_relabelled_counts_every_scenario_once_and_weighed_leaves_labels_in_place() -> None:
    moved = Variants.relabelled(torch.tensor([[1, 0, 2], [2, 1, 0]]))
    assert (moved.weight.tolist(), moved.n) == ([[1.0] * 3], 2)
    heavy = Variants.weighed(torch.tensor([[0, 2, 1], [3, 0, 0], [1, 1, 1]]).float())
    assert (heavy.index.tolist(), heavy.weight.dtype, heavy.n) == ([[0, 1, 2]], torch.float64, 3)
    assert Variants(moved.index, heavy.weight[:2]).n == 2


def test_refitted_reads_every_scenario_once_and_fits_to_others() -> None:
    fitted = Variants.refitted(torch.tensor([[0, 2, 1], [3, 0, 0]]).float())
    assert (fitted.index.tolist(), fitted.weight.tolist(), fitted.n) == ([[0, 1, 2]], [[1.0] * 3], 2)
    assert fitted.fit is not None and fitted.fit.dtype == torch.float64
    moved = fitted.to("meta").fit
    assert moved is not None and moved.device.type == "meta"
    assert Variants.one(3).to("meta").fit is None


def test_nothing_has_a_nan_for_every_version() -> None:
    nothing = Variants.weighed(torch.ones(3, 2)).nothing
    assert nothing.shape == (3,) and nothing.isnan().all()


class TestMoved:
    label = np.array([10, 11, 12, 13, 14])
    blocks = np.array([0, 0, 1, 1, 1])

    def test_labels_are_those_of_the_scenarios_they_came_from(self) -> None:
        variants = Variants.relabelled(torch.tensor([[1, 0, 3, 4, 2], [0, 1, 2, 4, 3]]))
        got = variants.moved(self.label, np.array([4, 0, 2]), self.blocks)
        assert got.tolist() == [[12, 11, 13], [13, 10, 12]]

    def test_labels_moved_between_blocks_are_refused_with_what_to_do(self) -> None:
        variants = Variants.relabelled(torch.tensor([[0, 1, 2, 3, 4], [2, 1, 0, 3, 4]]))
        with pytest.raises(ValueError, match=r"keeps apart; permute them within its blocks .*SCHEMES"):
            variants.moved(self.label, np.arange(5), self.blocks)

    def test_only_the_scenarios_asked_for_must_keep_to_their_blocks(self) -> None:
        variants = Variants.relabelled(torch.tensor([[2, 1, 0, 4, 3]]))
        assert variants.moved(self.label, np.array([1, 3, 4]), self.blocks).tolist() == [[11, 14, 13]]

    def test_labels_may_be_vectors(self) -> None:
        label = np.arange(10.0).reshape(5, 2)
        got = Variants.relabelled(torch.tensor([[1, 0, 2, 3, 4]])).moved(label, np.arange(2), self.blocks)
        assert got.tolist() == [[[2.0, 3.0], [0.0, 1.0]]]


class TestPrepared:
    def test_versions_are_computed_on_its_device(self) -> None:
        seen: list[torch.device] = []

        def compute(variants: Variants, only=None) -> Values:
            seen.extend({variants.index.device, variants.weight.device})
            return {("a", "overall"): torch.ones(1)}

        found = Prepared(3, {}, compute, "meta")(Variants.one(3))
        assert {device.type for device in seen} == {"meta"}
        assert found["a", "overall"].device.type == "cpu"

    def test_only_is_passed_on(self) -> None:
        seen = []
        Prepared(3, {}, lambda variants, only=None: seen.append(only) or {})(Variants.one(3), ["a"])
        assert seen == [["a"]]

    def test_statistics_put_overall_first_nan_is_none_and_counts_default_to_all(self) -> None:
        values = {("a", "care"): 0.25, ("b", "harm"): torch.nan, ("a", "overall"): 0.5}

        def compute(variants: Variants, only=None) -> Values:
            assert variants.n == 1 and variants.index.shape == (1, 7)
            return {key: torch.tensor([value], dtype=torch.float64) for key, value in values.items()}

        got = Prepared(7, {("a", "care"): (3, 1)}, compute).statistics()
        assert got == [
            Statistic("a", 0.5, "overall", 7, 0),
            Statistic("a", 0.25, "care", 3, 1),
            Statistic("b", None, "harm", 7, 0),
        ]


def test_the_mean_of_groups_leaves_out_what_could_not_be_computed() -> None:
    parts = [torch.tensor([1.0, torch.nan, torch.nan]), torch.tensor([3.0, 5.0, torch.nan]), torch.tensor([2.0] * 3)]
    assert mean_of_groups(parts).tolist() == [2.0, 3.5, 2.0]
    assert mean_of_groups([torch.tensor([torch.nan])]).isnan().all()
