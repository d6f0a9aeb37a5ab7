"""k latents of an SAE computed apart from the others: what the whole SAE would give, at k·d per vector.

With F the frozen latents and S the k that move, an SAE's output is n·(Σ_F a_j w_j + Σ_S a_j w_j + b), n the factor by
which a run-time normalisation is undone. The frozen sum is computed once, and a step costs k·d per vector.

Exact for architectures in which latents do not compete: standard, jumprelu (what BatchTopK and Matryoshka are saved
as; thresholds are not trained) and gated. Exact for topk, too: the K frozen latents with the largest pre-activations
are kept per vector, because no other frozen one can ever be chosen; the K largest of k + K are those of the whole SAE,
and what frozen latents lose their place is taken out of the frozen sum. A step then costs (k + K)·d at most.

Gradients. A silent latent has none. `leak` lets a share of it through without changing a value: the gradient of its
pre-activation (gated: of the gate where that is shut). The hard choices themselves (a threshold, a place among the K)
are not differentiated; SAELens' straight-through estimators train thresholds, which stay here, but for latents that
are opened (`read`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_moral.sae.columns import ROWS
from sae_moral.sae.compatibility import OPERABLE
from sae_moral.sae.load import LoadedSae
from sae_moral.surgery.operation import Rows, rows_of


@dataclass(frozen=True, eq=False)
class Frozen:
    """What surgery leaves alone, for m vectors.

    Attributes:
        x: what the encoder's matrix is multiplied with: cast, normalised, less the bias.
        target: the raw vectors less what the frozen latents and the bias reconstruct of them.
        undo: n of the module docstring.
        rival, rival_index: topk: pre-activations and numbers of the K largest frozen latents, largest first.
    """

    x: Float[Tensor, "m d"]
    target: Float[Tensor, "m d"]
    undo: Float[Tensor, "m 1"]
    rival: Float[Tensor, "m K"]
    rival_index: Int[Tensor, "m K"]

    def at(self, index: Int[Tensor, "r"]) -> Frozen:
        """Some of the vectors."""
        index = index.to(self.x.device)
        return Frozen(*(value[index] for value in (self.x, self.target, self.undo, self.rival, self.rival_index)))


@dataclass(frozen=True, eq=False)
class Moved:
    """Of m vectors.

    Attributes:
        activation: of the k latents, as the whole SAE would give them; with the gradient of what is active alone.
        leaky: the same values, with a share of the gradient where a latent is silent.
        made: what stands against `Frozen.target`.
    """

    activation: Float[Tensor, "m k"]
    leaky: Float[Tensor, "m k"]
    made: Float[Tensor, "m d"]


class Part:
    """k latents of an SAE.

    Attributes:
        start: their parameters before surgery, float32; a threshold, where there is one, is not trained.
        competes: latents take each other's places.
        gain: gated: by which the magnitude multiplies what the encoder reads; else 1.
        rescales: activations are in units of the decoder rows' lengths.
    """

    def __init__(self, sae: LoadedSae, latents: Int[Tensor, "k"]) -> None:
        """Raises:
        ValueError: an architecture whose latents cannot be computed apart from the others.
        """
        if sae.architecture not in OPERABLE:
            raise ValueError(
                f"{sae.source} is a {sae.architecture}; surgery computes k latents apart from all others, which holds "
                f"for {', '.join(OPERABLE)}"
            )
        self.sae, self.latents = sae, latents.to(sae.sae.device)
        self.start: Rows = {name: value.float() for name, value in rows_of(sae, latents).items()}
        self.gain = torch.ones(len(self.latents), device=self.latents.device)
        if sae.architecture == "gated":
            self.gain = sae.sae.r_mag.detach()[self.latents].float().exp()
        topk = sae.architecture == "topk"
        self._k = int(sae.sae.cfg.k) if topk else 0
        self.competes = topk
        self.rescales = bool(topk and sae.sae.cfg.rescale_acts_by_decoder_norm)
        self._decoder = sae.sae.W_dec.detach().float()
        if self.rescales:
            self._decoder = self._decoder / self._decoder.norm(dim=1, keepdim=True)

    @torch.no_grad()
    def freeze(self, x: Float[Tensor, "m d"]) -> Frozen:
        """Everything that does not move, from one pass through the whole SAE."""
        parts = [self._freeze(rows.to(self.sae.sae.device)) for rows in x.split(ROWS)]
        return Frozen(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _freeze(self, x: Tensor) -> tuple[Tensor, ...]:
        sae = self.sae.sae
        inside = sae.process_sae_in(x)
        undo = torch.ones(len(x), 1, device=x.device)
        if sae.cfg.normalize_activations == "layer_norm":
            undo = sae.ln_std.float()
        elif sae.cfg.normalize_activations == "constant_norm_rescale":
            undo = 1 / sae.x_norm_coeff.float()
        rival, index = x.new_zeros(len(x), 0), torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
        if self._k:
            pre = (inside @ sae.W_enc + sae.b_enc) * (sae.W_dec.norm(dim=1) if self.rescales else 1.0)
            pre[:, self.latents] = -torch.inf
            rival, index = (found.contiguous() for found in pre.topk(min(self._k, pre.shape[1] - len(self.latents))))
            frozen = torch.zeros_like(pre).scatter_(1, index, rival.relu())
        else:
            frozen = sae.encode(x)
            frozen[:, self.latents] = 0
        return inside.float(), x.float() - sae.decode(frozen).float(), undo, rival.float(), index

    def __call__(self, rows: Rows, frozen: Frozen, leak: float = 0.0) -> Moved:
        """The k latents with other parameters, and what they make of each vector."""
        decoder = rows["W_dec"]
        drive, pre, on = self._encode(rows, frozen)
        activation = torch.where(on, pre.relu(), 0.0)
        silent = leak * (activation == 0) * (drive - drive.detach())
        if self.rescales:
            decoder = decoder / decoder.norm(dim=1, keepdim=True)
        made = activation @ decoder
        if self._k:
            made = made - self._displaced(on, frozen)
        return Moved(activation, activation + silent, frozen.undo * made)

    def _encode(self, rows: Rows, frozen: Frozen) -> tuple[Tensor, Tensor, Bool[Tensor, "m k"]]:
        """What a silent latent's gradient goes through, the pre-activation, and where the latent may be active."""
        linear = frozen.x @ rows["W_enc"]
        if self.sae.architecture == "gated":
            gate, pre = linear + rows["b_gate"], linear * self.gain + rows["b_mag"]
            return torch.where(gate > 0, pre, gate), pre, gate > 0
        pre = linear + rows["b_enc"]
        if self.sae.architecture == "jumprelu":
            return pre, pre, pre > rows["threshold"]
        if not self._k:
            return pre, pre, torch.ones_like(pre, dtype=torch.bool)
        if self.rescales:
            pre = pre * rows["W_dec"].norm(dim=1)
        return pre, pre, self._chosen(pre, frozen)[:, : pre.shape[1]]

    def _chosen(self, pre: Float[Tensor, "m k"], frozen: Frozen) -> Bool[Tensor, "m c"]:
        """Which of the k and the rivals are among the K largest."""
        both = torch.cat([pre.detach(), frozen.rival], dim=1)
        best = both.topk(min(self._k, both.shape[1])).indices
        return torch.zeros_like(both, dtype=torch.bool).scatter_(1, best, True)

    def _displaced(self, on: Bool[Tensor, "m k"], frozen: Frozen) -> Float[Tensor, "m d"]:
        """What the frozen latents wrote that lost their place: as many of the smallest as moving ones were chosen."""
        width = frozen.rival.shape[1]
        kept = self._k - on.sum(dim=1, keepdim=True)
        lost = torch.arange(width, device=on.device) >= kept
        deepest = max(int(kept.min()), 0)  # only the last few columns are ever lost
        if deepest >= width:
            return torch.zeros_like(frozen.target)
        return torch.nn.functional.embedding_bag(
            frozen.rival_index[:, deepest:],
            self._decoder,
            per_sample_weights=torch.where(lost, frozen.rival.relu(), 0.0)[:, deepest:],
            mode="sum",
        )

    def rows(self, trained: Rows) -> Rows:
        """Trained parameters in the SAE's dtype."""
        return {name: value.detach().to(self.sae.sae.dtype) for name, value in trained.items()}
