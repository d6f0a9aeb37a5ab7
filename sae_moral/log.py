"""The log of this package: loggers `sae_moral.*`, silent below warnings unless somebody listens.

It tells somebody who waits what is going on: work that takes long begins, ends, or is found done. Values, progress bars
and warnings are no part of it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

ROOT = "sae_moral"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def timed(logger: logging.Logger, what: str) -> Iterator[None]:
    """Log that the block begins, and how many seconds it took or what ended it."""
    logger.info("%s: begins", what)
    started = time.perf_counter()
    try:
        yield
    except BaseException as error:
        logger.info("%s: %s after %.1f s", what, type(error).__name__, time.perf_counter() - started)
        raise
    logger.info("%s: done in %.1f s", what, time.perf_counter() - started)


@contextmanager
def shown_log() -> Iterator[None]:
    """While the block runs, the log is on standard error, with times and levels, above the progress bars."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    logger, handler = logging.getLogger(ROOT), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(FORMAT, "%Y-%m-%d %H:%M:%S"))
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a library that logs to the root would say it twice
    try:
        with logging_redirect_tqdm([logger]):
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
