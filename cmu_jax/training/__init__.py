"""Training loops, optimizers and metrics."""
