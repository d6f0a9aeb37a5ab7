"""What requests to a server need for an arm, and what its response has to say of it."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_moral_vllm.hook import ServedEdit, served_edits


def request_body(arm: str | Path | None, alpha: float | None = None) -> dict[str, Any]:
    """What a request needs beside its prompt (`extra_body` of OpenAI clients): the hooks of an arm, none for None.

    The salt keeps arms apart in the server's prefix cache: what was computed with hooks is kept there, too.

    Args:
        arm: the exported file, under the path that the server has it at, too.
        alpha: of all its edits; None for the exported ones.

    Raises:
        ValueError: not an exported arm.
    """
    if arm is None:
        return {"cache_salt": "baseline"}
    edits = served_edits(arm, alpha)
    hooks = [hook_record(edit) for edit in edits]
    return {"vllm_xargs": {"apply_hooks": json.dumps(hooks)}, "cache_salt": "-".join(map(repr, edits))}


def hook_record(edit: ServedEdit) -> dict[str, Any]:
    """A `vllm_lens.Hook` in JSON, for `apply_hooks` of a request and for `/v1/hooks/register`."""
    code = base64.b64encode(pickle.dumps(edit)).decode()
    return {"fn": {"cloudpickle": code}, "layer_indices": [edit.about["layer"]], "pre": False}


def check(response: Mapping[str, Any], edits: int) -> None:
    """Refuse a server's response [OpenAI JSON] whose edits did not each steer what they should.

    vllm-lens goes on without a hook that fails, and says so in the server's log only.

    Raises:
        RuntimeError: no hook ran, one failed, or one has seen fewer or more positions than there were.
    """
    ran, usage = response.get("hook_results") or {}, response["usage"]
    # The last token is not fed back, or once in vain.
    positions = usage["prompt_tokens"] + usage["completion_tokens"] - 1
    for number in range(edits):
        saved = ran.get(str(number))
        if saved is None:
            raise RuntimeError(f"edit {number} never ran; start the server with vllm-lens")
        if "failed" in saved or saved["seen"] - positions not in (0, 1):
            said = saved.get("failed") or f"it has seen {saved['seen']} positions of {positions}"
            raise RuntimeError(f"edit {number} did not steer what it should: {said}")
