"""Comparison of pytrees, relative to the largest entry of each leaf."""

import jax
import numpy as np


def assert_close(a, b, rtol=2e-4):
  for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    scale = max(float(np.abs(q).max(initial=0)), 1)
    np.testing.assert_allclose(p, q, rtol=rtol, atol=rtol * scale)
