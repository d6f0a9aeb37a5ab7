"""One batch through a model: which one runs, what is read of it, and where it stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.architectures import save_random
from sae_moral.capture import Representations, capture, load_model
from sae_moral.capture.agreement import trust
from tests.tiny import forwards

TEXTS = ["helping the team", "hitting two strangers in the station", "lying"]


def watched(model: Any) -> Any:
    """Something hooked in that changes nothing: the bridge itself has to run."""
    return model.hooks(fwd_hooks=[("blocks.1.hook_out", lambda hidden, hook: None)])


def equal(one: Representations, other: Representations) -> bool:
    return all(torch.equal(one[layer], other[layer]) for layer in one.layers)


class TestTheWrappedModelItself:
    """Of a bridge that nothing is hooked into the model that it wraps is read."""

    def test_the_same_numbers(self, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        capture(tiny, TEXTS)  # compared once
        calls = forwards(tiny, monkeypatch)
        alone = capture(tiny, TEXTS)
        assert set(calls) == {"transformers"}
        with watched(tiny):
            assert equal(alone, capture(tiny, TEXTS))
        assert "bridge" in calls
        assert tiny.blocks[0].attn is not tiny.blocks[0].attn.original_component  # everything is back in its place

    def test_no_deeper_than_asked(self, tiny: Any) -> None:
        capture(tiny, TEXTS[:1])
        ran: list[int] = []
        for layer in range(tiny.cfg.n_layers):
            block = tiny.blocks[layer].original_component
            block.register_forward_hook(lambda module, given, output, at=layer: ran.append(at))
        capture(tiny, TEXTS[:1], layers=[0])
        assert ran == [0]

    def test_a_hooked_bridge_is_read_as_it_is(self, tiny: Any) -> None:
        plain = capture(tiny, TEXTS)
        with tiny.hooks(fwd_hooks=[("blocks.0.hook_out", lambda hidden, hook: hidden + 1)]):
            moved = capture(tiny, TEXTS)
        torch.testing.assert_close(moved[0], plain[0] + 1)
        assert not torch.allclose(moved[1], plain[1])

    @pytest.mark.parametrize("said", [True, False])
    def test_weights_that_the_bridge_holds_count(self, tmp_path: Path, said: bool) -> None:
        save_random("GPT-NeoX, parallel blocks", tmp_path / "model")
        model: Any = load_model(tmp_path / "model", device="cpu")
        before = capture(model, TEXTS)
        with torch.no_grad():  # a copy: transformers has query, key and value in one projection
            model.blocks[0].attn.q.weight.mul_(-3)
        if said:
            trust(model)
        assert not equal(before, capture(model, TEXTS))

    def test_not_at_other_sites(self, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        capture(tiny, TEXTS)
        calls = forwards(tiny, monkeypatch)
        capture(tiny, TEXTS, layers=[1], sites={1: "mlp_out"})
        assert "bridge" in calls
