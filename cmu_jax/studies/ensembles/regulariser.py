"""What a loss of an ensemble adds to cross-entropy: a type, and nothing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cmu_jax.core.types import PRNGKey, Variables


class Regulariser(NamedTuple):
  """A term of a joint loss.

  Attributes:
    start: (key, variables) -> what is carried from step to step.
    before: (variables, carried) -> carried, at the beginning of a step; no
      gradient flows through it.
    value: (variables, carried, image, label) -> the term, of network input.
    total: True where cross-entropies are added over members, not averaged.
  """

  start: Callable[[PRNGKey, Variables], Any]
  before: Callable[[Variables, Any], Any]
  value: Callable[[Variables, Any, jax.Array, jax.Array], jax.Array]
  total: bool = False


def nothing() -> Regulariser:
  """Members that are trained side by side and know nothing of each other."""
  return Regulariser(
    lambda key, variables: (),
    lambda variables, carried: carried,
    lambda variables, carried, image, label: jnp.zeros(()),
  )
