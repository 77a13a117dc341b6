"""Which mechanism has an implementation that somebody maintains, and who says so.

Looked up in the repositories themselves, in autumn 2026; each entry names its source. A package
without a change for over two years counts as maintained by nobody: it meets a new torch alone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Implementation:
    """Code by others that computes a mechanism.

    Attributes:
        name: Where it is called.
        package: What has to be installed.
        since: The version or the date that brought it.
        source: Who says so.
        gpu_only: Whether it needs a GPU.
    """

    name: str
    package: str
    since: str
    source: str
    gpu_only: bool = False

    def __str__(self) -> str:
        where = ", on a GPU" if self.gpu_only else ""
        return f"{self.name} (since {self.since}{where}; {self.source})"


_FLEX = Implementation(
    "torch.nn.attention.flex_attention", "torch", "torch 2.5",
    "pytorch.org/blog/pytorch2-5",
)  # fmt: skip
MAINTAINED: dict[str, Implementation] = {
    "full": Implementation("torch.softmax between two products", "torch", "ever", "torch's manual"),
    "flash": Implementation(
        "torch.nn.functional.scaled_dot_product_attention", "torch", "torch 2.0", "claim C290"
    ),
    "grouped": Implementation(
        "scaled_dot_product_attention(…, enable_gqa=True)", "torch", "torch 2.5",
        "torch's manual",
    ),
    "window": _FLEX,
    "longformer": _FLEX,
    "block_topk": Implementation(
        "fla.layers.moba", "flash-linear-attention", "2026-04", "README of fla-org", gpu_only=True
    ),
    "linear": Implementation(
        "fla.ops.linear_attn", "flash-linear-attention", "2024-02", "log of fla-org", gpu_only=True
    ),
    "quantised_cache": Implementation(
        "QuantizedCache, which saves room but no time: it multiplies what it has rounded back",
        "transformers", "2024-05", "transformers, pull request 30483",
    ),
}  # fmt: skip
"""By stem. A pattern of single keys, such as every 16th, is no entry: FlexAttention takes its mask,
but skips blocks of 128 keys only, and would skip none."""

LEFT_ALONE = {
    "performer": ("performer-pytorch", "2022-02"),
    "linformer": ("linformer", "2024-01"),
    "lsh": ("reformer-pytorch", "2023-06"),
}
"""By stem: a package, and the month of the last change in its repository."""


def implementation(stem: str, *, gpu: bool) -> Implementation | None:
    """Return what computes a mechanism on a GPU, or on a CPU, and is maintained; or None."""
    found = MAINTAINED.get(stem)
    return None if found is None or (found.gpu_only and not gpu) else found
