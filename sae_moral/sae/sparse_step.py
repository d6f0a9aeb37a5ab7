"""The training step of TopK SAEs without the multiplications by zero: the formula, the weights, the configuration and
the files are SAELens'.

Of d_sae latents k are active in a vector, and no gradient reaches the others. SAELens multiplies by all of them six
times per step; here the encoder's product alone is dense, because it says which are active. With h = (x − b_dec) W_enc
+ b_enc, the row norms n of W_dec and the active entries A of h n, SAELens' reconstruction is Σ_A relu(h n) / n · W_dec:
n chooses A and cancels from the values, so that no gradient goes through it. Latents of the auxiliary loss are those
that were silent for long, often hundreds in every vector: their products are dense, in their own columns only.

A sum over few terms is not rounded as one over many zeros, so that weights agree to tolerance, not bit for bit
(docs/design/training.md).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import TopKTrainingSAE
from torch import Tensor
from torch.optim import Adam

from sae_moral.sae.train_logging import in_trainer


class _Active(NamedTuple):
    """The entries of [batch, d_sae] that are reconstructed from, sorted by row."""

    row: Int[Tensor, "m"]
    latent: Int[Tensor, "m"]
    weight: Float[Tensor, "m"]


class _Dead(NamedTuple):
    """The columns of the auxiliary loss, which entries are among the largest, and what the loss is multiplied by for
    there being few columns."""

    latent: Int[Tensor, "n"]
    weight: Float[Tensor, "b n"]
    chosen: Bool[Tensor, "b n"]
    scale: float


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
        active: _Active,
        dead: _Dead | None,
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"] | None]:
        """Args:
        x: what the encoder multiplies; has no gradient.
        b_dec: where `x` is the input less it.
        """
        ctx.save_for_backward(x, W_enc, W_dec)
        ctx.from_b_dec, ctx.active, ctx.dead = b_dec is not None, active, dead
        ctx.rows = W_dec[:0] if dead is None else W_dec[dead.latent]
        with torch.enable_grad():  # torch's own gradient of the weights copies no row of W_dec
            ctx.weight = active.weight.requires_grad_()
            ctx.recons = _bags(active.latent, W_dec.detach(), _starts(active.row, len(x)), ctx.weight)
        return ctx.recons.detach(), None if dead is None else dead.weight @ ctx.rows

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, W_enc, W_dec = ctx.saved_tensors
        (row, latent, weight), dead = ctx.active, ctx.dead
        grad, grad_dead = grads
        order = latent.argsort(stable=True)
        of_latent, starts = row[order], _starts(latent[order], len(W_dec))
        (of_weight,) = torch.autograd.grad(ctx.recons, ctx.weight, grad)
        weight, through = weight.detach(), torch.where(weight > 0, of_weight, 0.0)

        def summed(vectors: Float[Tensor, "b d"], weights: Float[Tensor, "m"]) -> Float[Tensor, "s d"]:
            return _bags(of_latent, vectors, starts, weights[order])

        decoder, encoder = summed(grad, weight), summed(x, through)
        bias = torch.zeros_like(W_dec[:, 0]).index_add_(0, latent, through)
        if dead is not None:
            through = torch.where(dead.chosen, grad_dead @ ctx.rows.T, 0.0)
            decoder.index_add_(0, dead.latent, dead.weight.T @ grad_dead)
            encoder.index_add_(0, dead.latent, through.T @ x)
            bias.index_add_(0, dead.latent, through.sum(dim=0))
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
            active = _Active(row, latent, acts if norms is None else acts / norms[latent])
            dead = self._dead(hidden, step_input.dead_neuron_mask, norms)
        b_dec = self.b_dec if self.cfg.apply_b_dec_to_input else None
        recons, of_dead = _Reconstruction.apply(x, self.W_enc, self.b_enc, self.W_dec, b_dec, active, dead)
        sae_out = self.run_time_activation_norm_fn_out(self.hook_sae_recons(recons + self.b_dec))
        sae_out = self.reshape_fn_out(sae_out, self.d_head)
        mse_loss = self.mse_loss_fn(sae_out, step_input.sae_in).sum(dim=-1).mean()
        auxiliary = sae_out.new_tensor(0.0)
        if dead is not None:
            of_dead = self.reshape_fn_out(of_dead, self.d_head)
            error = (of_dead - (step_input.sae_in - sae_out).detach()).pow(2).sum(dim=-1).mean()
            auxiliary = self.cfg.aux_loss_coefficient * dead.scale * error
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
    ) -> _Dead | None:
        if mask is None or not mask.any():
            return None
        latent = mask.nonzero().flatten()
        acts, most = hidden[:, latent], self.cfg.d_in // 2
        largest = acts.topk(min(most, len(latent)), dim=-1, sorted=False).indices
        chosen = torch.zeros_like(acts, dtype=torch.bool).scatter_(-1, largest, True)
        weight = torch.where(chosen, acts if norms is None else acts / norms[latent], 0.0)
        return _Dead(latent, weight, chosen, min(len(latent) / most, 1.0))


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
