"""The model's input embeddings of scenarios: what its first block gets of each token, without context and position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_moral.capture.models import hooked_model
from sae_moral.capture.prompts import prompts_of
from sae_moral.capture.readers import Pooling, get_pooling, pool
from sae_moral.capture.run import batch_size
from sae_moral.provenance import HookedModel


def input_embeddings(
    model: HookedModel | nn.Module,
    text: Sequence[str],
    *,
    template: str = "{text}",
    pooling: str | Pooling = "scenario",
    bos: str = "prepend",
) -> Float[Tensor, "n d"]:
    """Mean of the rows of the embedding matrix over the tokens that `capture` pools; nothing is run.

    A factor that a model gives all of its embeddings (Gemma: √d) is left out: no metric that standardises or compares
    angles sees it.

    Args:
        model: as for `capture`.
        text: the scenarios.
        template: as for `capture`.
        pooling: as for `capture`.
        bos: as for `capture`.

    Raises:
        ValueError: a model without an embedding matrix; a bad template or pooling, as `capture`.
        DataError: a text without tokens or longer than the context.
        RuntimeError: embeddings that are not finite.
    """
    model = hooked_model(model)
    prompts = prompts_of(model, text, template=template, bos=bos)
    matrix: Tensor | None = getattr(model, "W_E", None)
    if matrix is None:
        raise ValueError(
            f"{type(model).__name__} has no embedding matrix W_E; leave the control 'embeddings' out (controls='...')"
        )
    weigh, table, found = get_pooling(pooling), matrix.detach(), []
    for start, stop in prompts.batches(batch_size(model)):
        tokens = prompts.tokens(start, stop, table.device)
        found.append(pool(table[tokens.ids], weigh(tokens)).cpu())
    vectors = torch.cat(found)
    if not torch.isfinite(vectors).all():
        raise RuntimeError("input embeddings that are not finite; try dtype float32")
    return vectors[torch.from_numpy(prompts.row)]
