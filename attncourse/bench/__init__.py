"""Every mechanism of the catalogue on this machine: time and memory, beside cost and peers.

Each mechanism is measured at each length beside what its `cost` predicts and beside its peers:
other people's implementations, torch's own among them. On a GPU that is the forward pass and,
where the kernel has one, the backward pass, causal and not, at two widths; and decoding for caches.
`attncourse bench` writes a record of it to results/; `here` measures in a notebook.
"""

from attncourse.bench.notebook import SHOWN, here, show_gpu
from attncourse.bench.reports import report
from attncourse.bench.store import latest

__all__ = ["SHOWN", "here", "latest", "report", "show_gpu"]
