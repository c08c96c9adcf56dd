r"""More samples are suspected only where those identified do not suffice.

  theta_1 = A(S_tr \ S_f)
  r       = share of (x, y) in S_f with argmax f(x; theta_1) = y
  theta_u = theta_1           where r <= tolerance
            U(theta_o, S_f)   otherwise

S_f is wrong by assumption, and theta_1 was not trained on it: it answers with
the wrong label where samples like those are still in S_tr, and seldom where
all of them are known. Then every further suspect is a good sample. Ours.
"""

from typing import Any

import numpy as np

from cmu_jax.core import rng
from cmu_jax.core.types import Info, InputStep, Method, Model, Variables
from cmu_jax.methods import wrappers

TOLERANCE = 0.1


def when_needed(
  once: Method,
  more: Method,
  model: Model,
  inputs: InputStep,
  tolerance: float = TOLERANCE,
) -> Method:
  """Leaves S_f out, and takes another method where that is not enough.

  Args:
    once: the retraining without S_f, see `retraining.rewod`.
    more: what suspects further samples; of one grid point.
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    tolerance: the largest share of S_f that may still get its wrong label.

  Returns:
    A method of one grid point; its info has 'remaining' besides, that share.
  """
  assert len(once.grid) == len(more.grid) == 1

  def solve(
    key, variables: Variables, given: Any, prepared, hyper
  ) -> tuple[Variables, Info]:
    named = rng.named(key, 'first')
    first, before = once.solve(named, variables, given, prepared, hyper)
    wrong = wrappers.agreed(model, inputs, first, given.forget)
    share = float(wrong.sum() / np.asarray(given.forget.valid).sum())
    if share <= tolerance:
      return first, {**before, 'remaining': share}
    ready = more.prepare(rng.named(key, 'prepare'), variables, given)
    found, after = more.solve(key, variables, given, ready, more.grid[0])
    cost = before['gradient_evaluations'] + after['gradient_evaluations']
    return found, {**after, 'gradient_evaluations': cost, 'remaining': share}

  needs = tuple(dict.fromkeys(('forget', *once.needs, *more.needs)))
  return Method(needs, once.prepare, solve)
