"""The provider: what it generates is what `sae_moral.steering.generate` does, batched, once, and never half-heard."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import anyio
import pytest
from inspect_ai import Task
from inspect_ai import eval as inspect_eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatMessageSystem,
    ChatMessageUser,
    ContentImage,
    GenerateConfig,
    Model,
    get_model,
    get_model_info,
)
from inspect_ai.tool import ToolInfo
from sae_moral_inspect import provider as module
from sae_moral_inspect.configuration import Configuration, configuration_of
from sae_moral_inspect.provider import Batcher, loaded

from sae_moral.steering import Steering, generate
from sae_moral.surgery import Operation

CONFIG = GenerateConfig(max_tokens=8)
TEXTS = [
    "helping a neighbour",
    "robbing the old baker",
    "teaching my sister",
    "mocking a tired nurse",
    "the",
]


def ask(model: Model, *texts: str, config: GenerateConfig = CONFIG) -> list[Any]:
    found: dict[int, Any] = {}

    async def one(i: int, text: str) -> None:
        found[i] = await model.generate(text, config=config)

    async def every() -> None:
        async with anyio.create_task_group() as group:
            for i, text in enumerate(texts):
                group.start_soon(one, i, text)

    anyio.run(every)
    return [found[i] for i in range(len(texts))]


def model_of(folder: Path, **arguments: Any) -> Model:
    return get_model(f"sae-moral/{folder}", memoize=False, **arguments)


@pytest.mark.parametrize("form", ["edit", "paper"])
def test_it_generates_what_the_library_does(tiny_folder: Path, operation: Path, form: str) -> None:
    found = ask(model_of(tiny_folder, operation=str(operation), alpha=0.5, form=form, batch_size=3), *TEXTS)
    model = loaded(str(tiny_folder), "float32", None)[0]
    steering = Steering(Operation.load(operation), 0.5, form=form, positions=Configuration().positions)
    expected = generate(model, TEXTS, steerings=steering, max_new_tokens=8)
    assert [output.completion for output in found] == [one.text for one in expected]
    plain = generate(model, TEXTS, max_new_tokens=8)
    assert [one.text for one in plain] != [one.text for one in expected]
    assert [output.completion for output in ask(model_of(tiny_folder), *TEXTS)] == [one.text for one in plain]
    assert [output.usage.input_tokens for output in found] == [len(one.prompt_ids) for one in expected]
    assert {output.stop_reason for output in found} <= {"stop", "max_tokens"}


def test_arms(tiny_folder: Path, operation: Path) -> None:
    """Four arms are four models; α = 0 is the baseline."""
    given = {"operation": str(operation), "alpha": 1.0}
    arms = {arm: model_of(tiny_folder, **given, arm=arm) for arm in ("baseline", "operated", "pretrained", "random")}
    said = {arm: tuple(output.completion for output in ask(model, *TEXTS)) for arm, model in arms.items()}
    assert len(set(said.values())) == 4
    assert (
        tuple(o.completion for o in ask(model_of(tiny_folder, operation=str(operation), alpha=0), *TEXTS))
        == said["baseline"]
    )
    pretrained = arms["pretrained"].api.steerings[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert (pretrained.form, pretrained.what.sha256) == ("paper", Operation.load(operation).original().sha256)
    assert len({model.api.base_url for model in arms.values()}) == 4  # or Inspect's cache would mix them up


def test_one_model_and_full_batches(tiny_folder: Path, operation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(
        module, "generate", lambda model, prompts, **o: sizes.append(len(prompts)) or generate(model, prompts, **o)
    )
    first = loaded(str(tiny_folder), "float32", None)[0]
    model = model_of(tiny_folder, operation=str(operation), alpha=1.0, batch_size=3)
    ask(model, *[f"{text} {word}" for text in TEXTS for word in ("the", "a")])
    assert sorted(sizes) == [1, 3, 3, 3]
    api: Any = model.api
    assert api.model is first


def test_the_template_is_applied_once(chat_folder: Path) -> None:
    api: Any = model_of(chat_folder).api
    messages = [ChatMessageSystem(content="the team"), ChatMessageUser(content="helping")]
    tokenizer = api.model.tokenizer
    ids = api.prompt_ids(messages, [], CONFIG)
    assert tokenizer.decode(ids) == "<s> <unk> the team . <unk> helping . helping"
    assert ids.count(tokenizer.bos_token_id) == 1
    thinking: Any = model_of(chat_folder, thinking=True).api
    assert tokenizer.decode(thinking.prompt_ids(messages, [], CONFIG)).endswith("helping . counting")


def test_a_base_model_gets_plain_text(tiny_folder: Path) -> None:
    api: Any = model_of(tiny_folder).api
    ids = api.prompt_ids([ChatMessageSystem(content="the team"), ChatMessageUser(content="helping")], [], CONFIG)
    assert api.model.tokenizer.decode(ids) == "<s> the team helping"


def test_seeds(tiny_folder: Path) -> None:
    """A seed gives one answer, whatever the batch; without a seed, asking again samples anew."""
    model, drawn = model_of(tiny_folder), CONFIG.merge(GenerateConfig(temperature=2.0))
    one = drawn.merge(GenerateConfig(seed=1))
    together = [output.completion for output in ask(model, *TEXTS, config=one)]
    assert together == [ask(model, text, config=one)[0].completion for text in TEXTS]
    assert together != [o.completion for o in ask(model, *TEXTS, config=drawn.merge(GenerateConfig(seed=2)))]
    assert len({ask(model, TEXTS[0], config=drawn)[0].completion for _ in range(6)}) > 1
    assert len({ask(model, TEXTS[0])[0].completion for _ in range(3)}) == 1


def test_stop_sequences_and_the_context(tiny_folder: Path) -> None:
    model = model_of(tiny_folder)
    whole = ask(model, TEXTS[0])[0].completion
    stop = whole.split()[2]
    [cut] = ask(model, TEXTS[0], config=CONFIG.merge(GenerateConfig(stop_seqs=[stop, "never"])))
    assert (cut.completion, cut.stop_reason) == (whole[: whole.index(stop)], "stop")
    too_long, nearly = " ".join(["the"] * 100), " ".join(["the"] * 60)  # the context is 64
    outputs = ask(model, too_long, nearly, TEXTS[0])
    assert (outputs[0].stop_reason, outputs[0].completion) == ("model_length", "")
    assert (outputs[1].stop_reason, outputs[1].usage.output_tokens) == ("model_length", 3)
    assert outputs[2].completion == whole


def test_what_it_cannot_do_is_refused(tiny_folder: Path) -> None:
    api: Any = model_of(tiny_folder).api
    with pytest.raises(ValueError, match="top_k, best_of: not implemented by this provider"):
        api.prompt_ids([ChatMessageUser(content="the")], [], GenerateConfig(top_k=5, best_of=2))
    with pytest.raises(ValueError, match=r"tools \(look\): this provider generates text only"):
        api.prompt_ids([], [ToolInfo(name="look", description="")], CONFIG)
    with pytest.raises(ValueError, match="a user message with content that is not text"):
        api.prompt_ids([ChatMessageUser(content=[ContentImage(image="data:image/png;base64,")])], [], CONFIG)


def test_kept_answers_are_not_generated_again(tiny_folder: Path, operation: Path, tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger.jsonl")
    arguments = {"operation": str(operation), "alpha": 1.0, "ledger": ledger}
    first, again = (model_of(tiny_folder, **arguments) for _ in range(2))
    other = model_of(tiny_folder, **{**arguments, "alpha": 2.0})
    said = [[o.completion for o in ask(model, *TEXTS)] for model in (first, again)]
    ask(other, *TEXTS)
    assert said[0] == said[1]
    unkept: Any = model_of(tiny_folder)
    assert ask(unkept, TEXTS[0])[0].completion == ask(unkept, TEXTS[0])[0].completion
    assert unkept.api.generated == 2
    assert [model.api.generated for model in (first, again, other)] == [5, 0, 5]  # pyright: ignore
    effects: Any = [model.api.side_effects() for model in (first, again)]  # pyright: ignore
    assert effects[0] == effects[1]
    assert effects[0].kl > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"operatio": "x"}, "unknown model argument 'operatio'; did you mean 'operation'"),
        ({"arm": "operated"}, "arm 'operated' needs the model arguments operation=FOLDER, and alpha=NUMBER"),
        ({"operation": "x"}, "arm 'operated' needs"),
        ({"alpha": 0.1}, "pass operation=FOLDER, too"),
        ({"kl": 0.1}, "pass operation=FOLDER, too"),
        ({"operation": "x", "alpha": 1, "kl": 0.1}, "and alpha=NUMBER or kl=NUMBER"),
        ({"operation": "x", "arm": "dense", "kl": 0.1}, "arm 'dense' needs twins=FILE"),
        ({"arm": "opperated", "operation": "x", "alpha": 1}, "unknown arm 'opperated'; did you mean 'operated'"),
        ({"alpha": "much", "operation": "x"}, "alpha='much'; expected float"),
        ({"thinking": "yes"}, "thinking='yes'; expected true or false"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"batch_size": 1.5}, "batch_size=1.5; expected int"),
        ({"batch_size": None}, "batch_size=None; expected int"),
    ],
)
def test_bad_arguments(tiny_folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PrerequisiteError, match=message):  # Inspect's command line shows it without a traceback
        model_of(tiny_folder, **arguments)


def test_the_operation_must_be_there_and_fit(tiny_folder: Path, tmp_path: Path) -> None:
    from .conftest import make_operation

    with pytest.raises(PrerequisiteError, match=r"no surgery\.json in"):
        model_of(tiny_folder, operation=str(tmp_path), alpha=1.0)
    for layer in (0, 2):
        make_operation(tmp_path / "several" / f"layer{layer}", layer=layer)
    several = str(tmp_path / "several")
    with pytest.raises(ValueError, match="operations of layers 0, 2; say which with layer="):
        model_of(tiny_folder, operation=several, alpha=1.0)
    with pytest.raises(ValueError, match="operations of layers 0, 2; layer=1 was given"):
        model_of(tiny_folder, operation=several, alpha=1.0, layer=1)
    api: Any = model_of(tiny_folder, operation=several, alpha="1e-1", layer=2).api
    assert (api.steerings[0].what.layer, api.steerings[0].alpha) == (2, 0.1)
    with pytest.raises(ValueError, match="unknown form 'edti'; did you mean 'edit'"):
        model_of(tiny_folder, operation=several, alpha=1.0, layer=2, form="edti")


def test_batches_are_full_and_of_one_kind() -> None:
    batches: list[tuple[Hashable, list[int]]] = []

    def work(kind: Hashable, items: list[int]) -> list[int]:
        batches.append((kind, items))
        return [10 * item for item in items]

    batcher, found = Batcher(work, 4), {}

    async def one(kind: str, item: int) -> None:
        found[item] = await batcher.submit(kind, item)

    async def every() -> None:
        async with anyio.create_task_group() as group:
            for item in range(10):
                group.start_soon(one, "even" if item % 2 == 0 else "odd", item)

    anyio.run(every)
    assert found == {item: 10 * item for item in range(10)}
    assert sorted(len(items) for _, items in batches) == [1, 1, 4, 4]
    assert all(item % 2 == (kind == "odd") for kind, items in batches for item in items)


def test_an_error_reaches_its_batch_only() -> None:
    def work(kind: Hashable, items: list[Any]) -> list[Any]:
        if kind == "bad":
            raise ValueError("the batch failed")
        return items

    batcher = Batcher(work, 2, quiet=0.01)

    async def every() -> None:
        with pytest.raises(ValueError, match="the batch failed"):
            await batcher.submit("bad", 1)
        assert await batcher.submit("good", 2) == 2

    anyio.run(every)


def test_cancelled_requests_are_not_done() -> None:
    begun, go = threading.Event(), threading.Event()
    done: list[int] = []

    def work(kind: Hashable, items: list[int]) -> list[int]:
        begun.set()
        go.wait(5)
        done.extend(items)
        return items

    batcher = Batcher(work, 1, quiet=0.01)

    async def every() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(batcher.submit, "k", 1)
            while not begun.is_set():
                await anyio.sleep(0.01)
            with anyio.move_on_after(0.05):
                await batcher.submit("k", 2)
            go.set()
            assert await batcher.submit("k", 3) == 3

    anyio.run(every)
    assert done == [1, 3]


def test_an_incomplete_batch_does_not_wait_for_long() -> None:
    batcher = Batcher(lambda kind, items: items, 100, quiet=0.02)
    started = time.monotonic()
    assert anyio.run(batcher.submit, "k", 1) == 1
    assert time.monotonic() - started < 2


def test_a_revision_is_loaded_and_is_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def load_model(name: str, **options: Any) -> None:
        given.append(options["revision"])
        raise ValueError("not loaded")

    monkeypatch.setattr("sae_moral_inspect.provider.load_model", load_model)
    for revision in ("v1", None):
        with pytest.raises(ValueError, match="not loaded"):
            loaded("someone/tiny", "float32", None, revision)
    assert given == ["v1", None]
    assert configuration_of({"revision": "v1"}).describe()["revision"] == "v1"
    assert "revision" not in configuration_of({}).describe()  # answers of before are found again


def test_an_evaluation_loads_no_second_model(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inspect asks what it does not know of a model by making another one, without its arguments."""
    asked, again = model_of(tiny_folder, dtype="bfloat16", device="cpu"), []
    monkeypatch.setattr(module, "loaded", lambda *given: again.append(given) or loaded(*given))
    task = Task([Sample(input="helping the team")], config=GenerateConfig(max_tokens=2))
    [log] = inspect_eval(task, model=asked, log_dir=str(tmp_path), display="none")
    assert log.status == "success" and not again
    info = get_model_info(f"sae-moral/{tiny_folder}")
    api: Any = asked.api
    assert info is not None and info.context_length == api.model.cfg.n_ctx
