"""The served hook against our own generation: equal tokens and log-probabilities, however passes are cut."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_moral_vllm import ServedEdit, request_body, served_edits
from sae_moral_vllm.export import export
from safetensors.torch import save_file

from sae_moral.steering import (
    Matched,
    Reader,
    Steering,
    Write,
    generate,
    next_logprobs,
    prompt_ids,
    random_direction,
    rotated,
    written,
)
from tests.steering.planted import D, operated, random_sae

CPU = torch.device("cpu")
H = 3 * torch.randn(35, D, generator=torch.Generator().manual_seed(5))
PROMPTS = ["helping", "robbing the old baker is morally", "two strangers on the bus and the team", "hitting my sister"]
NEW = 6


def reader() -> Write:
    g = torch.Generator().manual_seed(3)
    gate = Reader("reader", torch.randn(D, 4, generator=g) / D, torch.randn(4, generator=g))
    return Write(1, gate, torch.randn(4, D, generator=g), "reader")


def operation(layer: int = 1, architecture: str = "jumprelu", **options: Any) -> Any:
    return operated(random_sae(architecture, layer=layer, **options))


ARMS: dict[str, Callable[[], list[Steering]]] = {
    "edit": lambda: [Steering(operation(), 1.5)],
    "standard": lambda: [Steering(operation(architecture="standard", normalize_activations="layer_norm"), 1.0)],
    "gated": lambda: [Steering(operation(architecture="gated"), 0.5)],
    "rescaled": lambda: [
        Steering(operation(apply_b_dec_to_input=False, normalize_activations="constant_norm_rescale"), 1.0)
    ],
    "batchtopk": lambda: [Steering(operation(architecture="batchtopk"), 1.0)],
    "write": lambda: [Steering(operation(), 2.0, form="write")],
    "rotated": lambda: [Steering(rotated(written(operation()), 0), 2.0)],
    "reader": lambda: [Steering(reader(), 1.0)],
    "constant": lambda: [Steering(random_direction(D, 2, 3), 0.3, units="relative")],
    "matched": lambda: [Steering(Matched(random_direction(D, 1, 4), operation()), 1.0)],
    "two at one layer, one below": lambda: [
        Steering(operation(0), 0.7),
        Steering(reader(), 1.0),
        Steering(random_direction(D, 1, 5), 2.0),
    ],
}
SCHEDULES: dict[str, Callable[[], Any]] = {
    "whole prompts": lambda: itertools.repeat(10**6),
    "chunks of 3": lambda: itertools.repeat(3),
    "one by one": lambda: itertools.repeat(1),
    "any": lambda: itertools.cycle([4, 1, 1, 2, 5]),
}


def served(engine: Any, make: Any, tiny: Any, arm: Path, schedule: str = "whole prompts", drops: float = 0.0) -> Any:
    """Requests of all prompts, run together with the same hook objects, as persistent hooks are."""
    hooks = [(edit.about["layer"], pickle.loads(pickle.dumps(edit))) for edit in served_edits(arm)]
    requests = [make(prompt, hooks) for prompt in prompt_ids(tiny, PROMPTS)]
    sizes = SCHEDULES[schedule]()
    engine.run(requests, NEW, lambda: next(sizes), drops)
    return requests


def agrees(tiny: Any, requests: Any, steerings: list[Steering]) -> None:
    local = generate(tiny, PROMPTS, steerings=steerings, max_new_tokens=NEW, stop_at_eos=False)
    assert [request.new for request in requests] == [one.ids for one in local]
    for request, one in zip(requests, local, strict=True):
        steps = [[*one.prompt_ids, *one.ids[:i]] for i in range(NEW)]
        expected = next_logprobs(tiny, steps, steerings=steerings)
        torch.testing.assert_close(torch.stack(request.logprobs), expected, atol=2e-4, rtol=1e-4)
        for context in request.contexts:
            assert context.saved["seen"] == len(request.ids) - 1 and "failed" not in context.saved


@pytest.mark.parametrize("arm", ARMS)
def test_the_term_is_ours(arm: str, tmp_path: Path) -> None:
    steerings = ARMS[arm]()
    for edit, steering in zip(served_edits(export(steerings, tmp_path / "arm")), steerings, strict=True):
        expected = steering.term(CPU)(H)
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(edit.term(H), expected.to(edit.term(H).dtype), atol=2e-5, rtol=1e-5)
        half = edit.term(H.bfloat16())
        torch.testing.assert_close(half, steering.term(CPU)(H.bfloat16()).to(half.dtype), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("arm", ARMS)
def test_generation_is_ours(engine: Any, new_request: Any, tiny: Any, arm: str, tmp_path: Path) -> None:
    steerings = ARMS[arm]()
    requests = served(engine, new_request, tiny, export(steerings, tmp_path / "arm"))
    agrees(tiny, requests, steerings)
    plain = generate(tiny, PROMPTS, max_new_tokens=NEW, stop_at_eos=False)
    assert [request.new for request in requests] != [one.ids for one in plain]


@pytest.mark.parametrize("positions", ["all-but-first", "all"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("drops", [0.0, 0.2])
def test_how_passes_are_cut_changes_nothing(
    engine: Any, new_request: Any, tiny: Any, positions: str, schedule: str, drops: float, tmp_path: Path
) -> None:
    steerings = [Steering(operation(), 1.5, positions=positions), Steering(reader(), 1.0, positions=positions)]
    if drops and schedule in ("chunks of 3", "one by one"):
        drops = 0.04  # a request that is dropped before it has been computed again never ends
    agrees(tiny, served(engine, new_request, tiny, export(steerings, tmp_path / "arm"), schedule, drops), steerings)


def test_positions_that_are_left_out_would_be_seen(tiny: Any) -> None:
    def steered(positions: str) -> dict[str, Any]:
        return {"steerings": [Steering(one, 1.0, positions=positions) for one in (operation(), reader())]}

    with_bos, without = (next_logprobs(tiny, PROMPTS, **steered(one)) for one in ("all", "all-but-first"))
    assert (with_bos - without).abs().amax(dim=1).min() > 1e-3  # `agrees` lets 2e-4 pass
    how: dict[str, Any] = {"max_new_tokens": NEW, "stop_at_eos": False}
    one, *parts = (generate(tiny, PROMPTS, **steered(p), **how) for p in ("all-but-first", "prompt", "generated"))
    assert all(one != part for part in parts)


class Context:
    def __init__(self, layer: int = 1) -> None:
        self.layer_idx, self.saved = layer, dict[str, Any]()


def test_what_goes_wrong_is_kept_and_never_raised(tmp_path: Path) -> None:
    [edit] = served_edits(export(ARMS["edit"](), tmp_path / "arm"))
    for context, hidden, why in (
        (Context(2), H, "layer 2: an edit of layer 1; expected to be called there"),
        (Context(), H[:, :7], "layer 1: "),
        (Context(), torch.full((3, D), torch.inf), "layer 1: values that are not finite"),
    ):
        assert edit(context, hidden) is None
        assert context.saved["failed"].startswith(why)


def test_the_first_position_is_the_tokens_that_came_first(tmp_path: Path) -> None:
    [edit] = served_edits(export([Steering(random_direction(D, 1, 3), 1.0)], tmp_path / "arm"))
    context, moved = Context(), []
    for rows in (H[:1], H[1:4], H[4:5], H[:1], H[:3], H[3:5], H[5:6], H[:2], H[2:4]):
        rounded = rows * (1 + 1e-5)
        steered = edit(context, rounded)
        assert steered is not None
        moved.append(((steered - rounded).norm(dim=1) > 0.5).tolist())
    t, f = True, False
    # The fourth is a token that was generated, the first one's equal.
    assert moved == [[f], [t, t, t], [t], [t], [f, t, t], [t, t], [t], [f, t], [t, t]]
    assert context.saved["seen"] == 4


def test_alpha_of_a_request_replaces_the_files(tmp_path: Path) -> None:
    arm = export(ARMS["reader"](), tmp_path / "arm")
    [one], [half] = served_edits(arm), served_edits(arm, 0.5)
    added = [edit(Context(), H) - H for edit in (one, pickle.loads(pickle.dumps(half)))]  # pyright: ignore
    torch.testing.assert_close(added[1], 0.5 * added[0], atol=1e-5, rtol=1e-4)
    bodies = [request_body(arm), request_body(arm, 0.5), request_body(None)]
    assert len({body["cache_salt"] for body in bodies}) == 3 and "vllm_xargs" not in bodies[2]


def test_another_file_is_refused_where_it_is_loaded(tmp_path: Path) -> None:
    [edit] = served_edits(export(ARMS["reader"](), tmp_path / "arm"))
    sent = pickle.dumps(edit)
    assert len(sent) < 1000
    export(ARMS["constant"](), tmp_path / "arm")
    from sae_moral_vllm.hook import read_arm

    read_arm.cache_clear()
    with pytest.raises(ValueError, match=r"has the hash .* was asked for; export it anew"):
        pickle.loads(sent)
    save_file({"x": torch.zeros(1)}, tmp_path / "other", {"kind": "twins"})
    with pytest.raises(ValueError, match=r"kind 'twins'; expected 'sae_moral served arm 1'"):
        served_edits(tmp_path / "other")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ValueError, match=r"no safetensors file .*; expected what export writes"):
        ServedEdit(tmp_path / "text")


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    topk = Steering(operated(random_sae("topk")), 1.0)
    for steerings, why in (
        ([], "no steering to export"),
        (
            [Steering(operation(), 1.0, positions="prompt")],
            "positions='prompt': .*; expected one of all-but-first, all",
        ),
        ([Steering(operation(), 1.0, form="paper")], "the paper's form needs the whole SAE"),
        ([topk], "latents of a topk SAE compete"),
    ):
        with pytest.raises(ValueError, match=why):
            export(steerings, tmp_path / "arm")
    assert not (tmp_path / "arm").exists()


def test_the_server_needs_torch_and_safetensors_alone(tmp_path: Path) -> None:
    arm = export(ARMS["edit"](), tmp_path / "arm")
    [edit] = served_edits(arm)
    (tmp_path / "sent").write_bytes(pickle.dumps(edit))
    torch.save({"in": H, "out": edit(Context(), H)}, tmp_path / "rows")
    script = (
        "import pickle, sys, types, torch\n"
        "for name in 'sae_moral transformer_lens sae_lens transformers inspect_ai'.split(): sys.modules[name] = None\n"
        "rows, edit = torch.load('rows'), pickle.load(open('sent', 'rb'))\n"
        "found = edit(types.SimpleNamespace(layer_idx=1, saved={}), rows['in'])\n"
        "torch.testing.assert_close(found, rows['out'], atol=0, rtol=0)\n"
    )
    source = Path(sys.modules["sae_moral_vllm"].__file__ or "").parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(source)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
