"""What a Triton kernel becomes on a GPU that need not be here: registers, shared memory, PTX.

Triton compiles for any GPU and needs none for it, but not in a process in which its interpreter is
switched on. So `compiled` starts another one. Where there is no Triton, it looks the kernel up in
results/compiled.json, which `python -m attncourse.machine_code` writes for the kernel of chapter
10 at the sizes in `TRIED`.
"""

from __future__ import annotations

import ast
import datetime
import hashlib
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attncourse import house

RECORD = house.material() / "results" / "compiled.json"
CHAPTER = house.material() / "notebooks" / "_source" / "10_tuning.py"  # of a clone
TRIED = [
    {"dtype": dtype, "BLOCK": block, "num_warps": warps}
    for dtype, block, warps in itertools.product(("fp16", "fp32"), (16, 32, 64, 128, 256), (4, 8))
    if dtype == "fp16" or block <= 64  # a larger one takes minutes and spills
]
DTYPES = ("fp16", "bf16", "fp32")
OPTIONS = ("num_warps", "num_stages")
HEAD = "import triton\nimport triton.language as tl\n\n\n"


@dataclass(frozen=True)
class Compiled:
    """A kernel as machine code.

    Attributes:
        registers: Of a thread; there are 255 at most.
        spilled_bytes: Of a thread, what found no register and lies in slow memory.
        shared_bytes: Shared memory of a program.
        threads: Of a program.
        products: The tensor cores' instructions for products, without their operands, each once;
            none if products are done one by one.
        copies: The instructions that copy tiles to shared memory while the rest goes on, each
            once; `cp.async.bulk.tensor` would be the tensor memory accelerator's.
        ptx_lines: How long its PTX is.
    """

    registers: int
    spilled_bytes: int
    shared_bytes: int
    threads: int
    products: list[str]
    copies: list[str]
    ptx_lines: int


def compiled(
    source: str, jobs: Sequence[Mapping[str, Any]], *, arch: int = 90
) -> tuple[list[Compiled], str]:
    """Compile a kernel at some sizes, as a launch with large contiguous tensors would.

    Args:
        source: Of one `@triton.jit` function, and of no other: what is not `tl` it cannot use.
            Arguments that end in `_ptr` are tensors of the job's dtype, those in capitals that it
            gives are constants, and the rest are whole numbers, multiples of 16.
        jobs: For each: "dtype" ("fp16", "bf16" or "fp32"), the constants, and, if they are not
            Triton's own, "num_warps" and "num_stages".
        arch: 90 for H100 and H200, 80 for A100.

    Returns:
        What became of each, and in words who compiled it when.

    Raises:
        ValueError: A job has no dtype, or another.
        RuntimeError: Triton cannot compile it, and says why; or there is no Triton, and no record.
    """
    for job in jobs:
        if job.get("dtype") not in DTYPES:
            raise ValueError(
                f"machine_code.compiled: dtype must be one of {', '.join(DTYPES)}, "
                f"got {job.get('dtype')!r}"
            )
    if importlib.util.find_spec("triton") is None:
        return _recorded(source, jobs, arch)
    with tempfile.TemporaryDirectory() as folder:
        # Triton reads a kernel's source from its file
        (Path(folder) / "kernel_to_compile.py").write_text(HEAD + source, encoding="utf-8")
        run = subprocess.run(
            [sys.executable, "-m", "attncourse.machine_code", "compile"],
            input=json.dumps({"folder": folder, "arch": arch, "jobs": list(map(dict, jobs))}),
            env=os.environ | {"TRITON_INTERPRET": "0"},
            capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
    if run.returncode:
        said = run.stderr.strip().splitlines() or [f"the compiler ended with {run.returncode}"]
        raise RuntimeError(f"machine_code.compiled: {said[-1]}")
    found = json.loads(run.stdout.splitlines()[-1])
    return [Compiled(**one) for one in found["found"]], f"Triton {found['triton']}, just now"


def table(path: Path = RECORD) -> dict[str, Any] | None:
    """Return the record, or None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def digest(source: str) -> str:
    """Return the name of a kernel's source, whatever its comments and layout."""
    return hashlib.sha256(ast.unparse(ast.parse(source)).encode()).hexdigest()[:16]


def _recorded(source: str, jobs: Sequence[Mapping[str, Any]], arch: int) -> tuple[list, str]:
    record = table()
    if record and (record["source"], record["arch"]) == (digest(source), arch):
        known = {tuple(sorted(row["job"].items())): row["found"] for row in record["rows"]}
        asked = [tuple(sorted(job.items())) for job in jobs]
        if all(job in known for job in asked):
            found = [Compiled(**known[job]) for job in asked]
            return found, f"Triton {record['triton']}, recorded"
    raise RuntimeError(
        "machine_code.compiled: there is no Triton here, which is made for Linux, and "
        "results/compiled.json does not have this kernel at these sizes"
    )


def _compile(kernel: Any, job: Mapping[str, Any], arch: int) -> Compiled:
    """Compile one; this process is not under the interpreter."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, attributes = {}, {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in job:
            signature[name], constants[(place,)] = "constexpr", job[name]
        else:
            signature[name] = f"*{job['dtype']}" if name.endswith("_ptr") else "i32"
            attributes[(place,)] = [["tt.divisibility", 16]]
    binary = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", arch, 32),
        options={name: job[name] for name in OPTIONS if name in job},
    )
    registers, spilled_bytes = of_a_thread(binary.asm["cubin"])
    ptx = binary.asm["ptx"]
    return Compiled(
        registers=registers,
        spilled_bytes=spilled_bytes,
        shared_bytes=binary.metadata.shared,
        threads=32 * binary.metadata.num_warps,
        products=_instructions(ptx, r"wgmma\.mma|mma\.sync"),
        copies=_instructions(ptx, r"cp\.async\.(?!commit|wait)"),
        ptx_lines=len(ptx.splitlines()),
    )


def of_a_thread(cubin: bytes) -> tuple[int, int]:
    """Return the registers of a thread and the bytes of its stack, from machine code."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = (re.search(rf"{name}:(\d+)", usage) for name in ("REG", "STACK"))
    assert registers and stack, usage
    return int(registers[1]), int(stack[1])


def _instructions(ptx: str, beginning: str) -> list[str]:
    """Return the instructions that begin so, without operands, each once."""
    found = re.findall(rf"^\s*(?:@\S+ )?((?:{beginning})\S*)", ptx, re.MULTILINE)
    return list(dict.fromkeys(found))


def _answer() -> None:
    """Compile what standard input asks for; print one JSON object."""
    import triton

    asked = json.load(sys.stdin)
    sys.path.insert(0, asked["folder"])
    module = importlib.import_module("kernel_to_compile")
    (kernel,) = (x for x in vars(module).values() if isinstance(x, triton.JITFunction))
    found = [asdict(_compile(kernel, job, asked["arch"])) for job in asked["jobs"]]
    print(json.dumps({"triton": triton.__version__, "found": found}))


def kernel_of_chapter() -> str:
    """Return the source of chapter 10's kernel, as its notebook has it."""
    text = CHAPTER.read_text(encoding="utf-8")
    (function,) = (
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name == "product_kernel"
    )
    return ast.unparse(function)


def _write() -> None:
    """Write results/compiled.json."""
    import triton

    source = kernel_of_chapter()
    rows = []
    for job in TRIED:
        found, _ = compiled(source, [job])
        rows.append({"job": job, "found": asdict(found[0])})
        print(job, found[0], flush=True)
    record = {
        "source": digest(source),
        "arch": 90,
        "triton": triton.__version__,
        "date": datetime.date.today().isoformat(),
        "rows": rows,
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _answer() if sys.argv[1:] == ["compile"] else _write()
