"""What the launchers are made of: tiles, plans, backward passes, and the kernels they share."""
