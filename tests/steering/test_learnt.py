"""What twins are made of, as a file; next-token log-probabilities against the model itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_moral import DataError
from sae_moral.steering import Direction, Learnt, Reader, Write, next_logprobs


def test_what_was_learnt_comes_back_from_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    gates = [Reader(name, torch.randn(16, 1), torch.randn(1)) for name in ("reader of typicality", "reader of valence")]
    learnt = Learnt(2, gates[0], Direction(2, torch.randn(16), "d"), Write(2, gates[1], torch.randn(1, 16), "valence"))
    found = Learnt.load(learnt.save(tmp_path / "L2.safetensors"))
    assert found.layer == found.constant.layer == found.valence.layer == 2
    assert found.tensors().keys() == learnt.tensors().keys()
    assert all(torch.equal(value, learnt.tensors()[name]) for name, value in found.tensors().items())
    with pytest.raises(FileNotFoundError, match="folder `twins` of a sweep"):
        Learnt.load(tmp_path / "L3.safetensors")
    content = (tmp_path / "L2.safetensors").read_bytes()
    for bad in (b"", content[: len(content) // 2], content.replace(b"constant", b"constanx")):
        (tmp_path / "bad.safetensors").write_bytes(bad)
        with pytest.raises(DataError, match="not what twins are made of"):
            Learnt.load(tmp_path / "bad.safetensors")


def test_next_logprobs_are_the_models_own(tiny: Any) -> None:
    prompts = ["helping the baker", "helping", "mocking two strangers the old baker"]
    found = next_logprobs(tiny, prompts, batch_size=2)
    for row, prompt in zip(found, prompts, strict=True):
        with torch.no_grad():
            expected = torch.log_softmax(tiny(tiny.to_tokens(prompt))[0, -1], dim=-1)
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)
    assert next_logprobs(tiny, []).shape == (0, tiny.cfg.d_vocab)
