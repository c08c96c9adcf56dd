"""Forgetting one class: what of it is left, beside retraining without it."""
