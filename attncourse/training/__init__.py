"""What saves memory in training, in torch: recompute, reverse, round, reuse.

`checkpointing` and `reversible` keep fewer activations, `mixed_precision` smaller ones; `buffers`
and `resident` show what becomes of the bytes themselves.
"""
