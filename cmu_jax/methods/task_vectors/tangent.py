"""Networks made linear in their parameters."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from cmu_jax.methods.task_vectors import leaves


def tangent(fn: Callable[..., PyTree], base: PyTree) -> Callable[..., PyTree]:
  """f(base) + Df(base)[params - base], as a function of (params, *args).

  One forward-mode derivative, about the cost of three forward passes. The
  function can be trained as any other; its task vectors add up exactly.

  Args:
    fn: (params, *args) -> outputs, pure.
    base: where the network is made linear.

  References:
    Task Arithmetic in the Tangent Space (arXiv 2305.12827, NeurIPS 2023),
    section 3.
  """
  start = leaves.split(base)

  def linear(params: PyTree, *args: Any) -> PyTree:
    leaves.check_like(base, params, 'the network')
    ends = leaves.split(params).floats
    steps = [
      (end - x).astype(x.dtype)
      for x, end in zip(start.floats, ends, strict=True)
    ]

    def run(floats: list[Any]) -> PyTree:
      return fn(leaves.join(start.skeleton, floats, start.fixed), *args)

    value, slope = jax.jvp(run, (start.floats,), (steps,))
    return jax.tree.map(lambda a, b: a + b, value, slope)

  return linear
