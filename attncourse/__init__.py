"""A course on memory-efficient attention and the package under it.

`MECHANISMS` is the catalogue. Each mechanism has a NumPy reference (`attncourse.reference.<stem>`)
and, where the catalogue says so, a Triton twin (`attncourse.kernels.<stem>`).
"""

from attncourse.catalogue import MECHANISMS, Knob, Mechanism

__version__ = "0.1.0"
__all__ = ["MECHANISMS", "Knob", "Mechanism", "__version__"]
