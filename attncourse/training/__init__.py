"""What saves memory in training, in torch: recompute, reverse, round, reuse.

`checkpointing` and `reversible` keep fewer activations and compute the rest again, by `replay`;
`mixed_precision` keeps smaller ones; `buffers` and `resident` show what becomes of the bytes.
`timeline` records what a step holds, `techniques` puts each into the course's model, and `table`
measures them side by side. `norms` saves nothing: it trains small stacks with the layer norm in
either place.
"""
