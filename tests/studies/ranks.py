"""Run by test_torchrun: one rank of a process group (gloo), and what all ranks do alike.

Usage: torchrun ... -m tests.studies.ranks FOLDER [MODEL]. At the first start rank 1 kills itself in a cell.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from tests.studies.test_workers import work
from tests.tiny import scenarios


def main(folder: Path, model: Path | None) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    (folder / f"started {dist.get_rank()} {os.environ['TORCHELASTIC_RESTART_COUNT']}").touch()
    dist.barrier()
    if dist.get_rank() == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
    work(folder, 0.3, resume=False)
    if model is not None:
        from sae_moral.capture import capture, load_model

        text = scenarios(60).text
        capture(load_model(model, device="cpu"), text, store=folder / "store", shards=5, tokens_per_batch=32)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
