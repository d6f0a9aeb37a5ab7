"""`ray_workers`: the same work in several Ray tasks, which divide it by the leases of its folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from sae_moral.errors import SaeMoralWarning
from sae_moral.workers import SECONDS_TO_END

Result = TypeVar("Result")


def ray_workers(n: int, work: Callable[[], Result], **options: Any) -> Result:
    """Call `work()` in n Ray tasks. When the first has returned, which is when all results are there, the others are
    cancelled.

    A task whose process dies is started again by Ray, three times by default (`max_retries`); meanwhile the others do
    its work. Tasks that Ray has no room for wait, and join when there is.

    Args:
        n: tasks.
        work: what each calls: a study on a folder that all machines share. It is sent to the tasks by cloudpickle, so
            it should load the model, not hold it.
        options: of a Ray task, as `ray.remote` has them: `num_gpus` (1 by default where the cluster has GPUs now),
            `num_cpus` (1 by default; as many threads, unless OMP_NUM_THREADS says how many), `max_retries`,
            `resources`, `runtime_env`, ...

    Returns:
        What the first task returned.

    Raises:
        ValueError: no task.
        RayError: all tasks failed; the error of the last is also of the type that its work raised.

    Warns:
        SaeMoralWarning: a task failed; the others did its work.
    """
    if n < 1:
        raise ValueError(f"{n} Ray tasks; expected at least 1")
    task = ray.remote(_call).options(**with_gpus(options))
    left, failed = [task.remote(work) for _ in range(n)], list[RayError]()
    try:
        while True:
            (ended,), left = ray.wait(left)
            try:
                result = ray.get(ended)
                break
            except RayError as error:
                if not left:
                    raise
                failed.append(error)
    finally:
        _end(left)
    for error in failed:
        said = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(f"a Ray task failed; the others did its work: {said[-1]}", SaeMoralWarning, stacklevel=2)
    return result


def with_gpus(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a task or an actor, with one GPU where the cluster has any and nothing is said of them."""
    if not ray.is_initialized():
        ray.init()
    return {"num_gpus": 1 if ray.cluster_resources().get("GPU") else 0, **options}


def _call(work: Callable[[], Any]) -> Any:
    return work()


def _end(tasks: Sequence[Any]) -> None:
    """Cancel tasks so that they let go of their leases; end those that do not."""
    for one in tasks:
        ray.cancel(one)
    if tasks:
        _, left = ray.wait(tasks, num_returns=len(tasks), timeout=SECONDS_TO_END)
        for one in left:
            ray.cancel(one, force=True)
