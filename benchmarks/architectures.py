"""Do we read and continue models of many architectures as transformers does? Tiny random ones, against it alone.

    python benchmarks/architectures.py [NAME ...] [--page docs/results/architectures.md]

Of each: three blocks of 32 dimensions, random weights, biases and norms away from where they start. Six texts of 1 to
17 words, in padded batches with us, one by one without padding with transformers.

- Capture: ‖ours − theirs‖ / ‖theirs‖ of the vectors pooled over all tokens, the largest over texts and blocks, as it is
  and with something hooked into the bridge, which then runs itself. Theirs are the outputs of the model's own blocks.
- Generation: ten tokens of greedy decoding, with a KV cache where one works, against transformers without one.
- Attention: a bridge asks for transformers' plain attention ("eager"), and so does the comparison; where the faster one
  that transformers takes by itself gives something else, the page says so.

It ends with an error where something is neither equal (1e-4, the same tokens) nor refused.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import warnings
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_moral.capture import capture, load_model
from sae_moral.io import write_text
from sae_moral.provenance import versions
from sae_moral.steering import generate
from sae_moral.steering.forwards import keeps_cache

PAGE = Path(__file__).resolve().parents[1] / "docs/results/architectures.md"
TEXTS = (
    "she lied to her oldest friend about the money and then she blamed the boy next door",
    "he gave the hungry child his bread",
    "they broke the law",
    "to share is kind",
    "the cruel king took the land of the poor and laughed",
    "stealing",
)
LAYERS, WIDTH, NEW_TOKENS, TOLERANCE = 3, 32, 10, 1e-4
_USUAL = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
}
_GROUPED = {**_USUAL, "num_key_value_heads": 2}
_GPT = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 64, "initializer_range": 0.4}
_FALCON = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "initializer_range": 0.4}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_LOCAL = {"sliding_window": 6}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Apertus": ("Apertus", _GROUPED),
    "Arcee": ("Arcee", _GROUPED),
    "BLOOM": ("Bloom", {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": 4, "initializer_range": 0.4}),
    "CodeGen": ("CodeGen", {**_GPT, "rotary_dim": 4}),
    "Cohere": ("Cohere", _GROUPED),
    "Cohere 2": ("Cohere2", {**_GROUPED, **_LOCAL}),
    "ERNIE 4.5": ("Ernie4_5", _GROUPED),
    "EXAONE 4": ("Exaone4", {**_GROUPED, **_LOCAL}),
    "Falcon": ("Falcon", _FALCON),
    "Falcon, ALiBi": ("Falcon", {**_FALCON, "alibi": True}),
    "Gemma": ("Gemma", {**_GROUPED, "head_dim": 8}),
    "Gemma 2": ("Gemma2", {**_GROUPED, **_LOCAL, "head_dim": 8, "query_pre_attn_scalar": 8}),
    "Gemma 3": ("Gemma3Text", {**_GROUPED, **_LOCAL, "head_dim": 8, "query_pre_attn_scalar": 8}),
    "GLM": ("Glm", {**_GROUPED, "head_dim": 8}),
    "GLM 4": ("Glm4", {**_GROUPED, "head_dim": 8}),
    "GPT-2": ("GPT2", _GPT),
    "GPT-BigCode": ("GPTBigCode", _GPT),
    "GPT-J": ("GPTJ", {**_GPT, "rotary_dim": 4}),
    "GPT-Neo": (
        "GPTNeo",
        {
            "hidden_size": WIDTH,
            "num_layers": LAYERS,
            "num_heads": 4,
            "max_position_embeddings": 64,
            "attention_types": [[["global", "local", "global"], 1]],
            "window_size": 6,
            "initializer_range": 0.2,
        },
    ),
    "GPT-NeoX, parallel blocks": ("GPTNeoX", {**_USUAL, "use_parallel_residual": True}),
    "GPT-NeoX, sequential blocks": ("GPTNeoX", {**_USUAL, "use_parallel_residual": False}),
    "gpt-oss": ("GptOss", {**_GROUPED, **_LOCAL, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "Granite": ("Granite", {**_GROUPED, "residual_multiplier": 0.4, "embedding_multiplier": 4.0}),
    "Granite MoE": ("GraniteMoe", {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "HunYuan": ("HunYuanDenseV1", {**_GROUPED, "head_dim": 8}),
    "LFM 2": ("Lfm2", {**_GROUPED, "layer_types": ["conv", "full_attention", "conv"]}),
    "Llama": ("Llama", _GROUPED),
    "Llama, tied embeddings": ("Llama", {**_GROUPED, "tie_word_embeddings": True}),
    "Mamba": (
        "Mamba",
        {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "state_size": 4, "initializer_range": 0.4},
    ),
    "Mamba 2": (
        "Mamba2",
        {
            "hidden_size": WIDTH,
            "num_hidden_layers": LAYERS,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 2,
            "chunk_size": 8,
            "initializer_range": 0.4,
        },
    ),
    "Mistral": ("Mistral", {**_GROUPED, **_LOCAL}),
    "Mixtral": ("Mixtral", {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "MPT": ("Mpt", {"d_model": WIDTH, "n_heads": 4, "n_layers": LAYERS, "max_seq_len": 64, "initializer_range": 0.4}),
    "Nemotron": ("Nemotron", _GROUPED),
    "OLMo": ("Olmo", _GROUPED),
    "OLMo 2": ("Olmo2", _GROUPED),
    "OLMo 3": ("Olmo3", {**_GROUPED, **_LOCAL}),
    "OLMoE": ("Olmoe", {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "OPT": (
        "OPT",
        {
            "hidden_size": WIDTH,
            "ffn_dim": 48,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": WIDTH,
            "init_std": 0.4,
        },
    ),
    "Phi": ("Phi", _USUAL),
    "Phi 3": ("Phi3", _GROUPED),
    "Qwen 2": ("Qwen2", _GROUPED),
    "Qwen 2 MoE": ("Qwen2Moe", {**_GROUPED, **_EXPERTS, "shared_expert_intermediate_size": 24}),
    "Qwen 3": ("Qwen3", {**_GROUPED, "head_dim": 8}),
    "Qwen 3 MoE": ("Qwen3Moe", {**_GROUPED, **_EXPERTS, "head_dim": 8}),
    "SeedOSS": ("SeedOss", {**_GROUPED, "head_dim": 8}),
    "SmolLM 3": ("SmolLM3", _GROUPED),
    "StableLM": ("StableLm", _GROUPED),
    "StarCoder 2": ("Starcoder2", {**_GROUPED, **_LOCAL}),
    "XGLM": (
        "XGLM",
        {
            "d_model": WIDTH,
            "ffn_dim": 48,
            "num_layers": LAYERS,
            "attention_heads": 4,
            "max_position_embeddings": 64,
            "init_std": 0.4,
        },
    ),
}
"""Name in the table → transformers' configuration class, its options."""


@dataclass(frozen=True)
class Row:
    """What came out for one architecture.

    Attributes:
        name: the architecture.
        model: transformers' class.
        capture: largest relative error; None where it was refused.
        generation: how many of the texts went on as with transformers.
        cache: whether a KV cache was used.
        refusal: why it was refused; empty where it was not.
        itself: the relative difference between transformers' own two kinds of attention; 0 where it has only one.
    """

    name: str
    model: str
    capture: float | None = None
    generation: int = 0
    cache: bool = True
    refusal: str = ""
    itself: float = 0.0

    @property
    def right(self) -> bool:
        """Equal, or refused."""
        return bool(self.refusal) or (
            self.capture is not None and self.capture < TOLERANCE and self.generation == len(TEXTS)
        )


def save_random(name: str, folder: Path) -> str:
    """Write a tiny random model of an architecture with a tokenizer; the name of its class."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    kind, options = ARCHITECTURES[name]
    # Byte-level BPE, because some architectures make a tokenizer of that kind of whatever they find.
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = {f"{role}_token": f"<{role}>" for role in ("bos", "eos", "pad")}
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator(TEXTS, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, **special)
    ends = {f"{name}_id": pieces.token_to_id(token) for name, token in special.items()}
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **ends, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return type(model).__name__


@torch.no_grad()
def with_transformers(folder: Path, attention: str) -> tuple[Float[Tensor, "layers texts d"], list[list[int]]]:
    """Pooled outputs of the model's blocks and greedy continuations of `TEXTS`, each by itself."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()
    blocks = next(module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == LAYERS)
    pooled, continuations = torch.zeros(LAYERS, len(TEXTS), WIDTH), []

    def pool(layer: int, text: int, output: Any) -> None:
        pooled[layer, text] = (output[0] if isinstance(output, tuple) else output).reshape(-1, WIDTH).mean(dim=0)

    for i, text in enumerate(TEXTS):
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids]
        handles = [
            block.register_forward_hook(lambda _, __, out, at=layer, row=i: pool(at, row, out))
            for layer, block in enumerate(blocks)
        ]
        model(torch.tensor([ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        new: list[int] = []
        for _ in range(NEW_TOKENS):
            new.append(int(model(torch.tensor([ids + new]), use_cache=False).logits[0, -1].argmax()))
        continuations.append(new)
    return pooled, continuations


def compared(name: str) -> Row:
    """One architecture, ours against transformers'."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        kind = save_random(name, folder)
        try:
            model = load_model(folder, device="cpu")
        except ValueError as error:
            return Row(name, kind, refusal=str(error))
        expected, continuations = with_transformers(folder, "eager")
        try:
            itself = relative(with_transformers(folder, "sdpa")[0], expected)
        except ValueError:  # there is no other for this architecture
            itself = 0.0
    error = 0.0
    for hooks in ([], [(f"blocks.{LAYERS - 1}.hook_out", lambda hidden, hook: None)]):
        with model.hooks(fwd_hooks=hooks):
            found = capture(model, TEXTS, pooling="all", bos="prepend", progress=False)
        error = max(error, relative(torch.stack([found[layer] for layer in found.layers]), expected))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no cache that works is in the table
        made = generate(model, TEXTS, max_new_tokens=NEW_TOKENS, stop_at_eos=False)
        cache = keeps_cache(model)
    same = sum(one.ids == theirs for one, theirs in zip(made, continuations, strict=True))
    return Row(name, kind, error, same, cache, itself=itself)


def relative(found: Float[Tensor, "layers texts d"], expected: Float[Tensor, "layers texts d"]) -> float:
    """The largest relative error of a vector."""
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def page(rows: list[Row]) -> str:
    """The page of the table."""
    found = versions()
    libraries = ", ".join(
        f"{name} {found[name]}" for name in ("transformer-lens", "transformers", "torch", "sae-moral")
    )
    refused = [row for row in rows if row.refusal]
    lines = [
        "# Architectures",
        "",
        f"Made on {date.today().isoformat()} ({platform.machine()}, {os.cpu_count()} shared CPU cores; {libraries}) by",
        "",
        "```sh",
        "python benchmarks/architectures.py",
        "```",
        "",
        f"{len(rows)} tiny random models, one of each architecture ({LAYERS} blocks × {WIDTH} dimensions, float32),",
        "read and continued by this package and by transformers alone. **Capture** is the largest relative error of a",
        f"text's pooled vector at any block; **generation** is whether {NEW_TOKENS} tokens of greedy decoding are the",
        f"same for all {len(TEXTS)} texts, in padded batches with a KV cache here, one by one without a cache there.",
        f"{sum(row.right for row in rows) - len(refused)} are equal (errors below {TOLERANCE:g}); {len(refused)} are",
        "refused when they are loaded.",
        "",
        "Small random models show whether the code is that of the architecture. They do not show what rounding does in",
        "a deep model, nor what happens beyond 64 positions. Every model is compared with transformers once, when it",
        "is loaded ([how, and within which tolerance](../design/agreement.md)).",
        "",
        "| architecture | class | capture | generation |",
        "|---|---|---|---|",
    ]
    for row in rows:
        if row.refusal:
            lines.append(f"| {row.name} | `{row.model}` | refused | refused |")
        else:
            how = "equal" if row.generation == len(TEXTS) else f"**differs for {len(TEXTS) - row.generation} texts**"
            without = "" if row.cache else ", without a cache (neither the bridge's nor transformers' works)"
            lines.append(f"| {row.name} | `{row.model}` | {row.capture:.1e} | {how}{without} |")
    if split := [row for row in rows if row.itself > TOLERANCE]:
        lines += ["", "## Where transformers differs from itself", ""]
        lines += [
            "A bridge asks for plain attention (`eager`). The one that transformers takes by itself (`sdpa`) gives"
        ]
        lines += ["other vectors, whatever reads them:", ""]
        lines += [f"- **{row.name}**: off by {row.itself:.2g}" for row in split]
    if refused:
        lines += ["", "## Refused", ""]
        lines += [f"- **{row.name}**: {row.refusal.partition('). ')[0]})." for row in refused]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compare them, print the table, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which of them; all by default, and then the page")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    if unknown := set(given.names) - set(ARCHITECTURES):
        parser.error(f"no architecture {', '.join(sorted(unknown))}; there are {', '.join(ARCHITECTURES)}")
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SAE_MORAL_CACHE"] = cache  # models that nobody loads again
        for name in given.names or ARCHITECTURES:
            rows.append(compared(name))
            print(rows[-1], flush=True)
    if not given.names:
        write_text(given.page, page(rows))
    sys.exit(0 if all(row.right for row in rows) else "some are neither equal nor refused")


if __name__ == "__main__":
    main()
