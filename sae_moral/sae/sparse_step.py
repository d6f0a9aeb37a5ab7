"""The training step of TopK SAEs without the multiplications by zero: the formula, the weights, the configuration and
the files are SAELens'.

Of d_sae latents k are active in a vector, and no gradient reaches the others. SAELens multiplies by all of them six
times per step; here the encoder's product alone is dense, because it says which are active. With h = (x − b_dec) W_enc
+ b_enc, the row norms n of W_dec and the active entries A of h n, SAELens' reconstruction is Σ_A relu(h n) / n · W_dec:
n chooses A and cancels from the values, so that no gradient goes through it. Latents of the auxiliary loss are those
that were silent for long, often hundreds in every vector: their products are dense, in their own columns only, as long
as those are not many more than a vector may choose.

A sum over few terms is not rounded as one over many zeros, so that weights agree to tolerance, not bit for bit
(docs/design/training.md).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import TopKTrainingSAE
from torch import Tensor
from torch.optim import Adam

from sae_moral.sae.train_logging import in_trainer

MANY = 10
"""So many times more dead latents than a vector may choose, and their products are sparse too."""


class _Entries:
    """Entries of [batch, d_sae], sorted by row, with the weights of their decoder rows; `moves` says through which
    weights a gradient goes."""

    def __init__(
        self, row: Int[Tensor, "m"], latent: Int[Tensor, "m"], weight: Float[Tensor, "m"], moves: Bool[Tensor, "m"]
    ) -> None:
        self.row, self.latent, self.weight, self.moves = row, latent, weight.requires_grad_(), moves

    def times(self, W_dec: Float[Tensor, "s d"], n: int) -> Float[Tensor, "n d"]:
        with torch.enable_grad():  # torch's own gradient of the weights copies no row of W_dec
            self.product = _bags(self.latent, W_dec.detach(), _starts(self.row, n), self.weight)
        return self.product.detach()

    def gradients(self, x: Tensor, W_dec: Tensor, grad: Float[Tensor, "b d"]) -> tuple[Tensor, Tensor, Tensor]:
        """Of the transposed encoder, its bias and the decoder."""
        (of_weight,) = torch.autograd.grad(self.product, self.weight, grad)
        through = torch.where(self.moves, of_weight, 0.0)
        order = self.latent.argsort(stable=True)
        row, starts = self.row[order], _starts(self.latent[order], len(W_dec))
        bias = torch.zeros_like(W_dec[:, 0]).index_add_(0, self.latent, through)
        encoder, decoder = (
            _bags(row, vectors, starts, weights[order])
            for vectors, weights in ((x, through), (grad, self.weight.detach()))
        )
        return encoder, bias, decoder

    def add(self, totals: tuple[Tensor, Tensor, Tensor], x: Tensor, W_dec: Tensor, grad: Tensor) -> None:
        for total, one in zip(totals, self.gradients(x, W_dec, grad), strict=True):
            total += one


class _Columns:
    """Whole columns of [batch, d_sae]: products are dense in them."""

    def __init__(self, latent: Int[Tensor, "n"], weight: Float[Tensor, "b n"], moves: Bool[Tensor, "b n"]) -> None:
        self.latent, self.weight, self.moves = latent, weight, moves

    def times(self, W_dec: Float[Tensor, "s d"], n: int) -> Float[Tensor, "n d"]:
        self.rows = W_dec[self.latent]
        return self.weight @ self.rows

    def add(self, totals: tuple[Tensor, Tensor, Tensor], x: Tensor, W_dec: Tensor, grad: Tensor) -> None:
        through = torch.where(self.moves, grad @ self.rows.T, 0.0)
        for total, one in zip(totals, (through.T @ x, through.sum(dim=0), self.weight.T @ grad), strict=True):
            total.index_add_(0, self.latent, one)


class _Reconstruction(torch.autograd.Function):
    """Σ weight · W_dec of the active entries, and of the dead ones, with the gradients of all that made the weights."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "b d"],
        W_enc: Float[Tensor, "d s"],
        b_enc: Float[Tensor, "s"],
        W_dec: Float[Tensor, "s d"],
        b_dec: Float[Tensor, "d"] | None,
        active: _Entries,
        dead: _Entries | _Columns | None,
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"] | None]:
        """Args:
        x: what the encoder multiplies; has no gradient.
        b_dec: where `x` is the input less it.
        """
        ctx.save_for_backward(x, W_enc, W_dec)
        ctx.from_b_dec, ctx.active, ctx.dead = b_dec is not None, active, dead
        return active.times(W_dec, len(x)), None if dead is None else dead.times(W_dec, len(x))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, W_enc, W_dec = ctx.saved_tensors
        encoder, bias, decoder = totals = ctx.active.gradients(x, W_dec, grads[0])
        if ctx.dead is not None:
            ctx.dead.add(totals, x, W_dec, grads[1])
        from_b_dec = -(W_enc @ bias) if ctx.from_b_dec else None
        return None, encoder.T, bias, decoder, from_b_dec, None, None


def _bags(
    index: Int[Tensor, "m"], vectors: Float[Tensor, "n d"], starts: Int[Tensor, "b"], weights: Float[Tensor, "m"]
) -> Float[Tensor, "b d"]:
    return F.embedding_bag(index, vectors, starts, mode="sum", per_sample_weights=weights)


def _starts(sorted_index: Int[Tensor, "m"], n: int) -> Int[Tensor, "n"]:
    """Where each of 0 … n − 1 begins in a sorted index."""
    counts = torch.bincount(sorted_index, minlength=n)
    return counts.cumsum(0) - counts


class SparseTopK(TopKTrainingSAE):
    """SAELens' TopK training SAE with a sparse `training_forward_pass`; `encode` and `decode` are SAELens'."""

    @classmethod
    def get_sae_class_for_architecture(cls, architecture: str) -> type[TopKTrainingSAE]:
        """Itself; SAELens' registry stays as it is."""
        return cls

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """As SAELens'. Where the input has a gradient or a hook sits on all latents, it is SAELens' own."""
        hooked = any(hook.has_hooks() for hook in (self.hook_sae_acts_pre, self.hook_sae_acts_post))
        if hooked or step_input.sae_in.requires_grad:
            return super().training_forward_pass(step_input)
        with torch.no_grad():
            x = self.process_sae_in(step_input.sae_in)
            hidden = torch.addmm(self.b_enc, x, self.W_enc)
            norms = self.W_dec.norm(dim=-1) if self.cfg.rescale_acts_by_decoder_norm else None
            if norms is not None:
                hidden *= norms
            row, latent = self._largest(hidden)
            acts = hidden[row, latent].relu_()
            feature_acts = torch.zeros_like(hidden)
            feature_acts[row, latent] = acts
            active = _Entries(row, latent, acts if norms is None else acts / norms[latent], acts > 0)
            dead, scale = self._dead(hidden, step_input.dead_neuron_mask, norms)
        b_dec = self.b_dec if self.cfg.apply_b_dec_to_input else None
        recons, of_dead = _Reconstruction.apply(x, self.W_enc, self.b_enc, self.W_dec, b_dec, active, dead)
        sae_out = self.run_time_activation_norm_fn_out(self.hook_sae_recons(recons + self.b_dec))
        sae_out = self.reshape_fn_out(sae_out, self.d_head)
        mse_loss = self.mse_loss_fn(sae_out, step_input.sae_in).sum(dim=-1).mean()
        auxiliary = sae_out.new_tensor(0.0)
        if dead is not None:
            of_dead = self.reshape_fn_out(of_dead, self.d_head)
            error = (of_dead - (step_input.sae_in - sae_out).detach()).pow(2).sum(dim=-1).mean()
            auxiliary = self.cfg.aux_loss_coefficient * scale * error
        return TrainStepOutput(
            sae_in=step_input.sae_in,
            sae_out=sae_out,
            feature_acts=feature_acts,
            hidden_pre=hidden,
            loss=mse_loss + auxiliary,
            losses={"mse_loss": mse_loss, "auxiliary_reconstruction_loss": auxiliary},
        )

    def _largest(self, hidden: Float[Tensor, "b s"]) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"]]:
        """Rows and latents of the active entries, sorted by row."""
        latent = hidden.topk(self.cfg.k, dim=-1, sorted=False).indices.flatten()
        return torch.arange(len(hidden), device=hidden.device).repeat_interleave(self.cfg.k), latent

    def _dead(
        self, hidden: Float[Tensor, "b s"], mask: Tensor | None, norms: Float[Tensor, "s"] | None
    ) -> tuple[_Entries | _Columns | None, float]:
        """What the auxiliary loss reconstructs from, and what it is multiplied by for there being few."""
        if mask is None or not mask.any():
            return None, 0.0
        dead, most = mask.nonzero().flatten(), self.cfg.d_in // 2
        scale = min(len(dead) / most, 1.0)
        acts = hidden[:, dead] if norms is None else hidden[:, dead] / norms[dead]
        largest = hidden[:, dead].topk(min(most, len(dead)), dim=-1, sorted=False).indices
        if len(dead) > MANY * most:
            row = torch.arange(len(hidden), device=hidden.device).repeat_interleave(most)
            weight = acts.gather(1, largest).flatten()
            return _Entries(row, dead[largest].flatten(), weight, torch.ones_like(row, dtype=torch.bool)), scale
        chosen = torch.zeros_like(acts, dtype=torch.bool).scatter_(-1, largest, True)
        return _Columns(dead, torch.where(chosen, acts, 0.0), chosen), scale


class SparseBatchTopK(BatchTopKTrainingSAE, SparseTopK):  # pyright: ignore[reportIncompatibleVariableOverride]
    """SAELens' BatchTopK training SAE over the sparse step."""

    def _largest(self, hidden: Float[Tensor, "b s"]) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"]]:
        flat = hidden.flatten().topk(int(self.cfg.k * len(hidden)), sorted=False).indices.sort().values
        return flat // hidden.shape[1], flat % hidden.shape[1]


SPARSE = {"topk": SparseTopK, "batchtopk": SparseBatchTopK}
"""Architecture of SAELens → its training SAE with a sparse step."""


def fused_adam() -> AbstractContextManager[None]:
    """Within the context, SAELens' trainer is made with an Adam that goes over the weights once: the same formula."""
    return in_trainer("Adam", partial(Adam, fused=True))
