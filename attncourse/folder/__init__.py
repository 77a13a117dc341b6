"""A learner's folder: laid out by `attncourse start`, brought to a newer release by `update`."""
