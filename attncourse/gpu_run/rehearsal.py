"""The same run on a CPU: kernels in Triton's interpreter at tiny sizes, tensors that stay here."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

TESTS = ("tests/test_kernels_t5.py", "tests/test_kernels_scoring.py")
CHAPTERS = ("04_window", "10_triton")  # one that times a GPU, and one that runs beside others
STEMS = ("full", "flash", "window")
BENCH = [
    "--n", "16", "--heads", "1", "--width", "16", "--causal", "no", "--mode", "forward",
    "--repeats", "1", "--without", "FlexAttention", "SDPA with a dense mask", "SDPA, cuDNN",
    "SDPA, flash", "SDPA, memory-efficient", "FlashAttention-2, local", "local-attention",
]  # fmt: skip


def pretend() -> None:
    """Let the bench take this CPU for a GPU, with few mechanisms."""
    from attncourse import MECHANISMS, measure
    from attncourse.bench import jobs, measuring

    _ = MECHANISMS["full"].kernel  # before anything else imports triton
    jobs.CUDA = "cpu"
    jobs.MECHANISMS = {stem: MECHANISMS[stem] for stem in STEMS}
    measuring.has_cuda = lambda: True
    measuring.is_lost = lambda: False
    measure.free_bytes = lambda device=None: 2**33
    measure.timing.FLUSH_BYTES = 1024


def _clock(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main(arguments: list[str]) -> int:
    """Run `attncourse bench …`, or try tiles or call the kernels first, as on a GPU."""
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if arguments[0] == "tiles":
        from attncourse.gpu_run import tuning

        tuning.TRIED = tuple((a, b, c, tiles[:2], d) for a, b, c, tiles, d in tuning.TRIED)
        print(tuning.tune(Path(arguments[1]), (32,), (64,), heads=1, clock=_clock))
        return 0
    pretend()
    if arguments[0] == "compiling":
        from attncourse.bench.settings import Setting
        from attncourse.gpu_run import compiling

        compiling.main(Setting("gpu", (16,), 1, (16,), 1, dtype="float16"), *arguments[1:])
        return 0
    from attncourse import cli

    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
