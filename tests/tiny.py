"""A tiny language model and invented moral scenarios, for tests that need a model but not a good one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_moral.data.moral_data import MoralData, from_records
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS

VERBS = "helping thanking feeding teaching hugging robbing mocking hitting cheating ignoring counting painting".split()
NOUNS = "a neighbour|the old baker|my sister and her friends|a tired nurse on the bus|the team|two strangers".split("|")
WORDS = sorted({*VERBS, *" ".join(NOUNS).split(), "is", "morally", "."})


def save_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """Write a random Llama (3 blocks × 16 dimensions) and its word tokenizer, which by itself adds no BOS."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def scenarios(n: int = 240, *, seed: int = 0) -> MoralData:
    """n invented scenarios over all foundations, with random labels: two in five virtuous, two vicious, one neutral."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(n):
        text = " ".join(
            [VERBS[rng.integers(len(VERBS))], *(NOUNS[j] for j in rng.integers(len(NOUNS), size=rng.integers(1, 4)))]
        )
        vector, foundation = np.zeros(len(DIMENSIONS)), i % len(FOUNDATIONS)
        if (kind := rng.integers(5)) < 4:
            vector[2 * foundation + kind % 2] = rng.choice([0.25, 0.5, 0.75, 1.0])
        records.append((f"s{i}", text, vector, foundation))
    # Of so few words nearly all texts are near; what tests say of numbers is for groups of equal text.
    return from_records(records, {"source": "invented"}).regrouped("equal")


def forwards(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which forward functions are called from here on."""
    calls: list[str] = []
    for owner, name in ((type(model), "bridge"), (type(model.original_model), "transformers")):
        run = owner.forward

        @functools.wraps(run)
        def counted(self: Any, *args: Any, run: Any = run, name: str = name, **options: Any) -> Any:
            calls.append(name)
            return run(self, *args, **options)

        monkeypatch.setattr(owner, "forward", counted)
    return calls
