"""The model provider: `--model sae-moral/<model>` runs any Inspect evaluation on a model that is steered, or not.

One model is loaded once per process, however many configurations of it are evaluated. Concurrent requests become
batches; what comes out does not depend on them.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

import anyio
import torch
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelInfo,
    ModelOutput,
    ModelUsage,
    StopReason,
    TopLogprob,
    set_model_info,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from sae_moral.capture import load_model
from sae_moral.errors import DataError
from sae_moral.io import Journal, key
from sae_moral.provenance import HookedModel, describe_model
from sae_moral.results import ModelFacts
from sae_moral.steering import (
    Generation,
    SideEffects,
    Steering,
    generate,
    next_logprobs,
    prompt_ids,
    side_effects,
    steering_hooks,
    with_kl,
)
from sae_moral_inspect.configuration import (
    LEARNT,
    configuration_of,
    describe_operations,
    load_operations,
    steerings_of,
)

MAX_TOKENS = 512
UNSUPPORTED = (
    *("top_k", "num_choices", "prompt_logprobs", "best_of", "frequency_penalty"),
    *("presence_penalty", "logit_bias", "response_schema", "extra_body"),
)
"""Settings that would change an answer and are not implemented: refused, never ignored."""
QUIET = 0.05
"""Seconds without a new request after which an incomplete batch is begun."""
_SHORTEST, _LONGEST = 0.005, 0.1
"""Seconds between two looks at a request: a hundred looks a second of each would slow the model down by a tenth."""
_loaded: dict[tuple[str, str, str | None, str | None], tuple[HookedModel, ModelFacts, threading.Lock]] = {}
_loading = threading.Lock()


class ModelArgumentError(PrerequisiteError, ValueError):
    """Model arguments that do not fit: Inspect's command line shows what is wrong and no traceback."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))


class SaeMoralAPI(ModelAPI):
    """A TransformerLens model, steered as its model arguments say (see `Configuration`)."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  (the signature Inspect asks for)
        **model_args: Any,
    ) -> None:
        """Loads the model, unless this process has it already, and the operation.

        Raises:
            ModelArgumentError: unknown or contradictory model arguments, a model that cannot be loaded, or an operation
                that does not fit it.
        """
        super().__init__(model_name, base_url, api_key, [], config)
        try:
            self.configuration = configuration_of(model_args)
            self.model, about, self._lock = loaded(
                model_name, self.configuration.dtype, self.configuration.device, self.configuration.revision
            )
            operations = load_operations(self.configuration, self.model.cfg.device or "cpu")
            self._given = steerings_of(self.configuration, operations, int(self.model.cfg.d_model))
            some = torch.ones(1, 2, dtype=torch.bool)  # what does not fit is refused before anything is asked
            steering_hooks(self.model, self._given, mask=some, any_model=self.configuration.any_model)
        except (ValueError, FileNotFoundError) as error:
            raise ModelArgumentError(error) from error
        # Asked for what it does not know of a model, Inspect would load another one, with no arguments.
        set_model_info(f"sae-moral/{model_name}", ModelInfo(context_length=int(self.model.cfg.n_ctx)))
        self._effects: SideEffects | None = None
        self.identity = {"model": about, **self.configuration.describe(), "operation": describe_operations(operations)}
        if self.configuration.resolved_arm in LEARNT:
            self.identity["steered"] = [steering.describe() for steering in self._given]
        # Inspect's own cache takes the name and the base URL of a model for all there is to know about it.
        self._key = key("steered-model/1", **self.identity)
        self.base_url = f"sae-moral:{self._key}"
        self._ledger = Journal(self.configuration.ledger) if self.configuration.ledger else None
        self._batcher = Batcher(self._generate_batch, self.configuration.batch_size)
        self._entropy = secrets.randbelow(2**31)
        self._asked: Counter[str] = Counter()
        self.generated = 0

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """One answer. Without a temperature the likeliest tokens are taken; with one and without a seed, asking again
        samples anew.

        Raises:
            ValueError: tools, content that is not text, or a setting of `UNSUPPORTED`.
        """
        ids = self.prompt_ids(input, tools, config)
        if config.logprobs or config.top_logprobs:
            return await self._next_token(ids, config)
        wanted = config.max_tokens or MAX_TOKENS
        room = min(wanted, self.model.cfg.n_ctx - len(ids or ()))
        if ids is None or room < 1:
            return self._too_long()
        temperature, top_p = config.temperature or 0.0, 1.0 if config.top_p is None else config.top_p
        kind = (room, temperature, top_p, self._seed(ids, config.seed, temperature))
        name = key("model-answer/1", model=self._key, ids=ids, kind=kind)
        kept = self._ledger.get(name) if self._ledger is not None else None
        if kept is None:
            started = time.monotonic()
            found: Generation = await self._batcher.submit(kind, ids)
            kept = {"ids": found.ids, "finished": found.finished, "text": found.text}
            if self._ledger is not None:
                arm, seconds = self.configuration.resolved_arm, time.monotonic() - started
                self._ledger.add(name, {"arm": arm, **kept, "seconds": seconds})
        text, stopped = _cut(kept["text"], config.stop_seqs)
        cut_off: StopReason = "max_tokens" if room == wanted else "model_length"
        stop = "stop" if stopped or kept["finished"] else cut_off
        output = ModelOutput.from_content(self.model_name, text, stop)
        output.usage = ModelUsage(input_tokens=len(ids), output_tokens=len(kept["ids"]),
                                  total_tokens=len(ids) + len(kept["ids"]))  # fmt: skip
        return output

    def side_effects(self) -> SideEffects:
        """What the steering does to neutral text (`sae_moral.steering.side_effects`)."""
        with self._lock:
            steerings, any_model = self._steerings(), self.configuration.any_model
            return self._effects or side_effects(self.model, steerings, any_model=any_model)

    @property
    def steerings(self) -> list[Steering]:
        """What is added, at its strength; the first time that may take a few runs over neutral text.

        Raises:
            NoStrengthError: no strength has the KL that is asked for.
        """
        with self._lock:
            return self._steerings()

    def _steerings(self) -> list[Steering]:
        if self.configuration.kl is not None and self._effects is None:
            self._given, self._effects = with_kl(
                self.model, self._given, self.configuration.kl, any_model=self.configuration.any_model
            )
        return self._given

    async def _next_token(self, ids: list[int] | None, config: GenerateConfig) -> ModelOutput:
        """The likeliest next token, and the log-probabilities of as many as are asked for."""
        if config.max_tokens != 1 or config.temperature:
            raise ValueError(
                f"logprobs with max_tokens={config.max_tokens} and temperature={config.temperature}; this provider "
                "gives them of one token at temperature 0: set max_tokens=1"
            )
        if ids is None:
            return self._too_long()
        name, top = key("model-choice/1", model=self._key, ids=ids), config.top_logprobs or 1
        kept = self._ledger.get(name) if self._ledger is not None else None
        if kept is None or len(kept["top"]) < top:
            kept = {"top": await self._batcher.submit(("next token", top), ids)}
            if self._ledger is not None:
                self._ledger.add(name, kept)
        ranked = [TopLogprob(token=token, logprob=value) for token, value in kept["top"][:top]]
        output = ModelOutput.from_content(self.model_name, ranked[0].token, "max_tokens")
        first = Logprob(token=ranked[0].token, logprob=ranked[0].logprob, top_logprobs=ranked)
        output.choices[0].logprobs = Logprobs(content=[first])
        return output

    def _too_long(self) -> ModelOutput:
        full = f"the prompt does not fit into the context of {self.model.cfg.n_ctx} tokens"
        return ModelOutput.from_content(self.model_name, "", "model_length", full)

    def max_tokens(self) -> int | None:
        """Where an evaluation says nothing."""
        return MAX_TOKENS

    def max_connections(self) -> int:
        """Two batches: one is collected while the other is generated."""
        return 2 * self.configuration.batch_size

    def connection_key(self) -> str:
        """Configurations do not share their connections."""
        return str(self.base_url)

    def prompt_ids(self, input: list[ChatMessage], tools: list[ToolInfo], config: GenerateConfig) -> list[int] | None:
        """The prompt's token ids, through the chat template exactly once; None when it is longer than the context.

        Raises:
            ValueError: tools, content that is not text, or a setting of `UNSUPPORTED`.
        """
        if tools:
            names = ", ".join(tool.name for tool in tools)
            raise ValueError(f"tools ({names}): this provider generates text only; use an evaluation without tools")
        if refused := [name for name in UNSUPPORTED if getattr(config, name) is not None]:
            raise ValueError(f"{', '.join(refused)}: not implemented by this provider; leave unset")
        for message in input:
            if not isinstance(message.content, str) and any(part.type != "text" for part in message.content):
                raise ValueError(f"a {message.role} message with content that is not text; expected text only")
        chat = [{"role": message.role, "content": message.text} for message in input]
        try:
            return prompt_ids(self.model, [chat], chat="auto", thinking=self.configuration.thinking)[0]
        except DataError:
            return None

    def _seed(self, ids: list[int], seed: int | None, temperature: float) -> int:
        if seed is not None or temperature == 0:
            return seed or 0
        prompt = key("prompt", ids=ids)
        self._asked[prompt] += 1
        return self._entropy + self._asked[prompt]

    def _generate_batch(self, kind: Any, prompts: list[list[int]]) -> list[Any]:
        how = {"any_model": self.configuration.any_model, "batch_size": self.configuration.batch_size}
        with self._lock:  # the hooks of two configurations must not meet on one model
            self.generated += len(prompts)
            if kind[0] == "next token":
                found = next_logprobs(self.model, prompts, steerings=self._steerings(), **how).topk(kind[1], dim=-1)
                words = [[self.model.tokenizer.decode([token]) for token in row] for row in found.indices.tolist()]
                rows = zip(words, found.values.tolist(), strict=True)
                return [list(zip(tokens, values, strict=True)) for tokens, values in rows]
            room, temperature, top_p, seed = kind
            options = {"max_new_tokens": room, "temperature": temperature, "top_p": top_p, "seed": seed}
            return generate(self.model, prompts, steerings=self._steerings(), **options, **how)


class Batcher:
    """Collects requests that can be done together and hands them to a function, one batch at a time."""

    def __init__(self, work: Callable[[Hashable, list[Any]], list[Any]], size: int, *, quiet: float = QUIET) -> None:
        """`work(kind, items)` gets at most `size` items of one kind and returns a result for each, in their order."""
        self._work, self._size, self._quiet = work, size, quiet
        self._waiting: list[tuple[Hashable, Any, Future[Any]]] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    async def submit(self, kind: Hashable, item: Any) -> Any:
        """The item's result, or the error of its batch. Cancelled before its batch began, it is never done."""
        future: Future[Any] = Future()
        with self._changed:
            self._waiting.append((kind, item, future))
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sae-moral-batcher", daemon=True)
                self._thread.start()
        try:
            pause = _SHORTEST  # polling works under asyncio and trio, and in any number of event loops
            while not future.done():
                await anyio.sleep(pause)
                pause = min(2 * pause, _LONGEST)
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def _run(self) -> None:
        while True:
            batch = [entry for entry in self._next() if entry[2].set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                results = self._work(batch[0][0], [item for _, item, _ in batch])
                for (_, _, future), result in zip(batch, results, strict=True):
                    future.set_result(result)
            except BaseException as error:
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    def _next(self) -> list[tuple[Hashable, Any, Future[Any]]]:
        """The oldest request and those of its kind, once they fill a batch or no more come."""
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            last, since = 0, time.monotonic()
            while True:
                kind = self._waiting[0][0]
                same = [entry for entry in self._waiting if entry[0] == kind]
                if len(same) != last:
                    last, since = len(same), time.monotonic()
                left = self._quiet - (time.monotonic() - since)
                if len(same) >= self._size or left <= 0:
                    break
                self._changed.wait(left)
            batch = same[: self._size]
            self._waiting = [entry for entry in self._waiting if entry not in batch]
            return batch


def loaded(
    name: str, dtype: str, device: str | None, revision: str | None = None
) -> tuple[HookedModel, ModelFacts, threading.Lock]:
    """A model of this process, what it is, and the lock to hold while it runs; loaded when it is first asked for.

    Raises:
        ValueError: it cannot be loaded.
    """
    with _loading:
        place = (name, dtype, device, revision)
        if place not in _loaded:
            model = load_model(name, dtype=dtype, device=device, revision=revision)
            _loaded[place] = model, describe_model(model), threading.Lock()
        return _loaded[place]


def _cut(text: str, stops: list[str] | None) -> tuple[str, bool]:
    """The text before the first stop sequence, and whether there was one."""
    ends = [text.find(stop) for stop in stops or [] if stop and stop in text]
    return (text[: min(ends)], True) if ends else (text, False)
