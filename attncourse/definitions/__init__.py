"""What a reference and its Triton twin must agree on, defined once: both import it from here.

Buckets of distances, random directions, the keys that a pattern lists. NumPy only, since kernels
never import `reference`.
"""
