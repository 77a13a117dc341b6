"""The tables of docs/registers.md; `python tests/registers.py` compiles all and writes them."""

import ast
import hashlib
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from attncourse import MECHANISMS

HERE = pathlib.Path(__file__).parent
PACKAGE = HERE.parent / "attncourse"
TRITON = importlib.metadata.version("triton")
# registers are given out anew by each compiler: the pinned one is answered for
PINNED = f"triton=={TRITON}" in (HERE.parent / "constraints.txt").read_text().split()
PAGE = HERE.parent / "docs/registers.md"
ARCHS = {80: "sm_80: A100, and as the least RTX 30 and 40", 90: "sm_90: H100, H200"}
# what a block gets: RTX 30 and 40, which run the code for sm_80, have the least; H100 has 227 KiB
SHARED_BYTES = {80: 99 * 1024, 90: 227 * 1024}
# bytes of a thread that spill, at most: in tiles which a measurement chose all the same
SPILLS = {
    (90, "_flash_dkdv_kernel", "fp16", 80): 160,
    (90, "_flash_dkdv_kernel", "fp16", 128): 40,
    (90, "_linear_fwd_kernel", "fp16", 80): 56,
    (90, "_linear_fwd_kernel", "fp16", 128): 128,
    # and on the few tiles that have hidden keys, where `hide` takes the values into registers
    (80, "_window_fwd_kernel", "fp16", 128): 40,
    (80, "_window_fwd_kernel", "bf16", 256): 16,
    (80, "_kv_cache_fwd_kernel", "fp32", 128): 8,
    (90, "_kv_cache_fwd_kernel", "bf16", 256): 8,
    (90, "_paged_fwd_kernel", "bf16", 256): 16,
}
HEAD = """# Registers and shared memory of the kernels

The most that any compiled configuration of a kernel takes: registers of a thread, of which there
are 255, and shared memory of a program. Compiled by the pinned Triton, without a GPU. None of these
spills but those at the end: a measurement chose them all the same, or they spill a little on tiles
with hidden keys, where values are looked through for NaN. Not among them are others that do, all in
float32, whose products take no tensor cores: linear attention wider than 128,
Performer's scan and Shaw's positions wider than 64, and LSH wider than 128, on an A100 also up to
64. `python tests/registers.py` writes this page; the tests compile anew and compare when the
sources are no longer those below, and each night.
"""


def is_text(statement: ast.stmt) -> bool:
    """Say whether a statement is a constant that stands alone, as docstrings do."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def sources() -> str:
    """Return a digest of all that decides what is compiled: kernels, Triton's version and how."""
    digest = hashlib.sha256(TRITON.encode())
    folders = (PACKAGE / "kernels", PACKAGE / "definitions")
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    for path in [*paths, HERE / "compile_only.py", HERE / "launches.py"]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):  # no docstrings
                node.body = [part for part in node.body if not is_text(part)]
        digest.update(ast.unparse(tree).encode())
    return f"Sources: {digest.hexdigest()[:16]}\n"


def outside_the_interpreter(script: str, *arguments: str, **variables: str) -> list:
    """Run a script beside this one as where there is a GPU; return the JSON of its lines."""
    command = [sys.executable, str(HERE / script), *arguments]
    environment = os.environ | {"TRITON_INTERPRET": "0"} | variables
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


def launches(how: str) -> list[str]:
    """Compile what launchers launch, see launches.py: "pairs" or "all". Return kernels' names."""
    with tempfile.TemporaryDirectory() as folder:

        def half(stems: tuple[str, ...]) -> list[str]:
            (names,) = outside_the_interpreter("launches.py", how, *stems, TRITON_CACHE_DIR=folder)
            return names

        stems = tuple(MECHANISMS)  # neighbours compile the same kernels
        middle = stems.index("linear")  # all before it take as long as the rest
        with ThreadPoolExecutor() as both:
            found = list(both.map(half, (stems[:middle], stems[middle:])))
    return sorted({name for names in found for name in names})


def reports(arch: int) -> list[dict]:
    """Compile everything for one architecture, see compile_only.py, and look at each kernel."""
    found = outside_the_interpreter("compile_only.py", str(arch))
    assert found
    for one in found:
        limit = SPILLS.get((arch, one["kernel"], one["dtype"], one["width"]), 0)
        assert one["spilled_bytes"] <= limit or not PINNED, one
        assert one["shared_bytes"] <= SHARED_BYTES[arch], one
        # float32 is multiplied exactly, without tensor cores
        assert one["tensor_cores"] == (one["has_dot"] and one["dtype"] != "fp32"), one
    return found


def short(kernel: str) -> str:
    """Return the name of a kernel as the page has it."""
    return kernel.strip("_").removesuffix("_kernel")


def spilling() -> str:
    """Return the table of what spills."""
    rows = [
        f"| {short(kernel)} | {ARCHS[arch]} | {dtype} | {width} | {limit} |"
        for (arch, kernel, dtype, width), limit in SPILLS.items()
    ]
    head = ["## What spills", "", "| kernel, causal | for | numbers | width | bytes of a thread |"]
    return "\n".join([*head, "| --- | --- | --- | --- | --- |", *rows]) + "\n"


def section(arch: int, found: list[dict]) -> str:
    """Return the table of one architecture."""
    most: dict[str, tuple[int, int]] = {}
    for one in found:
        before = most.get(one["kernel"], (0, 0))
        most[one["kernel"]] = tuple(map(max, before, (one["registers"], one["shared_bytes"])))
    lines = [f"## {ARCHS[arch]}", "", "| kernel | registers | shared |", "| --- | --- | --- |"]
    for kernel, (registers, shared) in sorted(most.items()):
        lines.append(f"| {short(kernel)} | {registers} | {shared / 1024:.0f} KiB |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    launches("pairs")
    tables = (section(arch, reports(arch)) for arch in ARCHS)
    PAGE.write_text("\n".join([HEAD, *tables, spilling(), sources()]))
