"""Safety post-processing: what may not leave in a text, also while it streams."""
