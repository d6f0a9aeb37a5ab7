"""Twins of an operation's write: all of it kept but one ingredient, so that a cause can be told from a coincidence.

    shuffled    the same surgery on shuffled labels: another gate (`operate(..., control="shuffled")`)
    random      the same surgery on latents that are not moral (`operate(..., control="random")`)
    rotated     the same gates; rows turned by a random rotation, norms and Gram matrix kept (`edits.rotated`)
    permuted    the same gates and rows; each row written by another latent's gate (`edits.permuted`)
    dense       the same way to write; the gate read from the stream itself by a ridge regression (`dense`)
    valence     gate and write learnt from pleasant and unpleasant sentences in which nobody does right or wrong
    constant    the difference in means at every token, without a gate (`steering.difference_in_means`)

They are compared at equal damage (`strength.at_kl`), not at equal norms: an edit across the few dimensions that carry
the norm of a stream breaks a model that one along them leaves alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_moral.capture import Representations, capture
from sae_moral.capture.hooks import resolve_hooks
from sae_moral.capture.models import hooked_model
from sae_moral.controls.valence import sentences
from sae_moral.data import MoralData
from sae_moral.errors import DataError
from sae_moral.foundations import DIMENSIONS, VICE, VIRTUE
from sae_moral.io import write_bytes
from sae_moral.protocol import AUDITED
from sae_moral.provenance import HookedModel
from sae_moral.shown import shown
from sae_moral.steering.edits import Reader, Write, written
from sae_moral.steering.forwards import last_logits
from sae_moral.steering.hooks import steer
from sae_moral.steering.steering import Direction, difference_in_means
from sae_moral.steering.words import ENGLISH, MORALLY, Wording, pair_tokens
from sae_moral.surgery import Operation
from sae_moral.surgery.read import ridge_of_tokens
from sae_moral.surgery.terms import signed_typicality
from sae_moral.surgery.vectors import Vectors

KIND = "sae_moral twins"
"""Of files."""
RIGHT_OR_WRONG = replace(MORALLY, pairs=ENGLISH[:1])
"""What `margin_gradient` is of, unless told otherwise."""


def dense(operation: Operation, reader: Reader) -> Write:
    """A gate read from the stream, writing what the operation's rows write together: the mean row of virtues less that
    of vices."""
    return Write(operation.layer, reader, toward_virtue(written(operation))[None], f"dense twin of {operation.name}")


def toward_virtue(write: Write) -> Float[Tensor, "d"]:
    """What the rows write together: of an operation the mean row of virtues less that of vices, else their sum."""
    rows = write.rows.float()
    if isinstance(write.gate, Reader):
        return rows.sum(dim=0)
    row_of = {latent: i for i, latent in enumerate(write.gate.latents.tolist())}
    sides: list[list[int]] = [[], []]
    for name, members in write.gate.by_dimension.items():
        sides[DIMENSIONS.index(name) % 2] += [row_of[latent] for latent in members]
    means = [rows[own].mean(dim=0) if own else torch.zeros_like(rows[0]) for own in sides]
    return means[VIRTUE] - means[VICE]


def typicality_reader(representations: Representations, data: MoralData, layer: int) -> Reader:
    """The ridge regression of the signed typicality (negative for vices, 0 for neutral items): of single tokens where
    there is a vector for each (`granularity="token"`), as the latents that surgery opens read it, else of mean vectors.

    Raises:
        ValueError: representations of other scenarios, or labels that do not vary.
    """
    if len(representations) != len(data):
        raise ValueError(f"{len(representations)} vectors for {len(data)} scenarios; expected one each")
    tokens = Vectors.of_layer(representations, layer)
    y = signed_typicality(torch.from_numpy(data.vector))
    y = torch.zeros(len(tokens.count)).scatter_reduce(0, tokens.row, y.float(), "mean", include_self=False)
    return _reader("typicality", tokens, y)


def valence(model: HookedModel | nn.Module, layer: int) -> Write:
    """Gate and write from pleasant and unpleasant sentences about weather, food, luck and the like
    (`sae_moral.controls.valence`): a ridge regression, and the difference in means."""
    known = sentences()
    how: dict[str, Any] = {"template": AUDITED.template, "pooling": AUDITED.pooling, "bos": AUDITED.bos}
    captured = capture(hooked_model(model), known.text, layers=[layer], granularity="token", progress=False, **how)
    tokens, pleasant = Vectors.of_layer(captured, layer), torch.from_numpy(known.pleasant)
    y = torch.zeros(len(tokens.count)).index_put((tokens.row,), torch.where(pleasant, 1.0, -1.0))
    reader, vectors = _reader("valence", tokens, y), tokens.mean()
    way = vectors[pleasant].mean(dim=0) - vectors[~pleasant].mean(dim=0)
    return Write(layer, reader, way[None].float(), "valence")


@shown(facts=lambda learnt: {"layer": learnt.layer})
@dataclass(frozen=True, eq=False)
class Learnt:
    """What twins of a layer are made of that no operation holds, learnt on training texts.

    Attributes:
        layer: the block after which it was read.
        reader: see `typicality_reader`.
        constant: see `difference_in_means`.
        valence: see `valence`.
    """

    layer: int
    reader: Reader
    constant: Direction
    valence: Write

    def tensors(self) -> dict[str, Float[Tensor, "..."]]:
        """Everything in it by name, for `of`."""
        gate = self.valence.gate
        assert isinstance(gate, Reader)
        return {
            "reader.weight": self.reader.weight,
            "reader.bias": self.reader.bias,
            "constant": self.constant.vector,
            "valence.weight": gate.weight,
            "valence.bias": gate.bias,
            "valence.rows": self.valence.rows,
        }

    @classmethod
    def of(cls, layer: int, tensors: Mapping[str, Float[Tensor, "..."]]) -> Learnt:
        """From the tensors of another.

        Raises:
            LookupError: one is missing.
        """
        reader, valence = (Reader(f"reader of {what}", tensors[f"{part}.weight"], tensors[f"{part}.bias"])
                           for what, part in (("typicality", "reader"), ("valence", "valence")))  # fmt: skip
        constant = Direction(layer, tensors["constant"], "difference in means (virtue − vice)")
        return cls(layer, reader, constant, Write(layer, valence, tensors["valence.rows"], "valence"))

    def save(self, path: str | Path) -> Path:
        """Write it as a safetensors file."""
        from safetensors.torch import save

        tensors = {name: value.contiguous() for name, value in self.tensors().items()}
        write_bytes(Path(path), save(tensors, metadata={"kind": KIND, "layer": str(self.layer)}))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Learnt:
        """What `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            DataError: a damaged file, or one of something else.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).exists():
            raise FileNotFoundError(f"no file {str(path)!r}; expected one of the folder `twins` of a sweep")
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            if about.get("kind") != KIND:
                raise ValueError(f"kind {about.get('kind')!r}; expected {KIND!r}")
            return cls.of(int(about["layer"]), tensors)
        except (SafetensorError, LookupError, TypeError, ValueError, OSError) as error:
            raise DataError(f"not what twins are made of: {error!s:.200}", file=path) from error


def learn(model: HookedModel | nn.Module, representations: Representations, data: MoralData, layer: int) -> Learnt:
    """The parts of a layer's twins, from training texts and the vectors of their tokens.

    Raises:
        ValueError: representations of other scenarios, or none of one pole.
    """
    reader = typicality_reader(representations, data, layer)
    return Learnt(layer, reader, difference_in_means(representations, data, layer), valence(model, layer))


def _reader(what: str, tokens: Vectors, y: Float[Tensor, "t"]) -> Reader:
    weight, bias = ridge_of_tokens(tokens.x.float(), tokens.count, y)
    return Reader(f"reader of {what}", weight[:, None].float(), torch.tensor([bias]))


def behind_first(real: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Every token but the first of its prompt, and no padding: what `all-but-first` steers."""
    return real & (real.long().cumsum(dim=1) > 1)


def margin_gradient(
    model: HookedModel | nn.Module,
    data: MoralData,
    layer: int,
    wordings: Sequence[Wording] = (RIGHT_OR_WRONG,),
    *,
    limit: int = 200,
    batch_size: int = 16,
) -> Direction:
    """E[∂ margin / ∂ h]: the direction that, added after a block at every token but the first, raises the margins of
    approving over disapproving words fastest; mean over scenarios, pairs and wordings.

    Args:
        data: training scenarios; at most `limit` of those with a pole are used.
        wordings: what is measured later, pairs and wordings that are held out, does not belong here.

    Raises:
        ValueError: no scenario with a pole, no wording, or as `measure`.

    Example:
        words = choose_words(model, training)
        gradient = margin_gradient(model, training, 9, words.learnt)
        operate(sae, None, model, data, write=along(gradient.vector, "output"))
    """
    _, batches = margin_gradients(model, data, layer, wordings, limit=limit, batch_size=batch_size)
    total, prompts = torch.zeros(hooked_model(model).cfg.d_model), 0
    for batch in batches:
        total += batch.gradient[batch.behind_first].float().sum(dim=0).cpu()
        prompts += len(batch.prompts)
    return Direction(layer, total / prompts, "gradient of the margin")


@shown()
@dataclass(frozen=True, eq=False)
class Gradients:
    """Of one batch of prompts after one wording.

    Attributes:
        hidden: the stream after the block.
        gradient: of each prompt's mean margin by it.
        behind_first: see the function of that name.
        prompts: which distinct prompts of the wording these are.
        row: for each scenario its prompt.
    """

    hidden: Float[Tensor, "batch pos d"]
    gradient: Float[Tensor, "batch pos d"]
    behind_first: Bool[Tensor, "batch pos"]
    prompts: range
    row: Int[np.ndarray, "n"]


def margin_gradients(
    model: HookedModel | nn.Module,
    data: MoralData,
    layer: int,
    wordings: Sequence[Wording],
    *,
    limit: int = 200,
    batch_size: int = 16,
) -> tuple[MoralData, Iterator[Gradients]]:
    """The scenarios with a pole that are used, and ∂ margin / ∂ h on each; arguments as for `margin_gradient`."""
    model = hooked_model(model)
    moral = data.subset(np.flatnonzero((data.pole == VIRTUE) | (data.pole == VICE)))
    if not len(moral) or not wordings:
        raise ValueError(f"{len(moral)} scenarios with a pole and {len(wordings)} wordings; expected some of both")
    moral = moral.sample(min(limit, len(moral)))
    return moral, _gradients(model, moral, layer, wordings, batch_size)


@contextmanager
def differentiable(model: HookedModel, layer: int) -> Iterator[list[Tensor]]:
    """Within the context every forward run adds the stream after a block to the list, for `torch.autograd.grad`."""
    name, held = resolve_hooks(model, [layer])[layer], list[Tensor]()

    def hold(hidden: Tensor, hook: object = None) -> Tensor:
        # Cut from what is below: nothing there needs a gradient.
        held.append(hidden.detach().requires_grad_())
        return held[-1]

    with steer(model, ()), model.hooks(fwd_hooks=[(name, hold)]):
        yield held


def _gradients(
    model: HookedModel, moral: MoralData, layer: int, wordings: Sequence[Wording], batch_size: int
) -> Iterator[Gradients]:
    with differentiable(model, layer) as held:
        for wording in wordings:
            prompts = wording.prompts(model, moral.text)
            good, bad = (list(side) for side in zip(*pair_tokens(model, wording.pairs), strict=True))
            for first in range(0, len(prompts.ids), batch_size):
                held.clear()
                last = min(first + batch_size, len(prompts.ids))
                batch = prompts.tokens(first, last, model.cfg.device or "cpu", left=True)
                with torch.enable_grad():
                    logits = last_logits(model, last - first)(batch.ids, batch.real.long())
                    margin = (logits[:, good] - logits[:, bad]).mean(dim=1).sum()
                    (gradient,) = torch.autograd.grad(margin, held)
                yield Gradients(held[0].detach(), gradient, behind_first(batch.real), range(first, last), prompts.row)
