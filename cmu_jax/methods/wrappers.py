r"""Retraining twice: what the first network would label so itself comes back.

  theta_1 = A(S_tr \ S_f)
  B       = {(x, y) in S_f : argmax f(x; theta_1) = y}
  theta_u = A((S_tr \ S_f) + B)

with A the procedure that trained the original model. Ours, for an S_f that a
detector enlarged: half of a class leaves with its bad samples, and a network
trained without them knows the good ones again. A triggered image it sees as
what it shows. Where labels were exchanged and some of them remain, theta_1 is
no judge: see `by_labels`.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool

from cmu_jax.core import rng
from cmu_jax.core.types import (
  Given,
  Info,
  InputStep,
  Method,
  Model,
  Samples,
  Variables,
)
from cmu_jax.training import descent, metrics


def agreed(
  model: Model, inputs: InputStep, variables: Variables, forget: Samples
) -> Bool[np.ndarray, 'm']:
  """Which valid rows of S_f a network gives the label they were trained with.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    variables: of the network.
    forget: m rows.
  """
  seen = metrics.predict(model, inputs, variables, forget.batch)
  return (seen == np.asarray(forget.batch.label)) & np.asarray(forget.valid)


def readmitted(given: Given, back: Bool[np.ndarray, 'm']) -> Given:
  """Rows of forget added to retain, of as many rows as before if they fit.

  Args:
    given: has retain, of n rows, and forget, of m.
    back: rows of forget; those that are not valid do not matter.
  """
  retain, forget = given.retain, given.forget
  assert retain is not None and forget is not None
  size = retain.valid.size
  kept = np.flatnonzero(np.asarray(retain.valid))
  more = np.flatnonzero(back & np.asarray(forget.valid))
  rows, index = descent.join(retain, forget).batch, np.append(kept, size + more)
  capacity = max(size, index.size)
  return given._replace(retain=descent.gathered(rows, index, capacity, False))


def rewod_twice(once: Method, model: Model, inputs: InputStep) -> Method:
  """Retrains without S_f, then with what of it that network agrees on.

  Args:
    once: the retraining, see `retraining.rewod`.
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.

  Returns:
    The method; its info has 'readmitted' besides, the size of B.
  """

  def solve(
    key, variables: Variables, given: Any, prepared, hyper
  ) -> tuple[Variables, Info]:
    named = rng.named(key, 'first')
    first, before = once.solve(named, variables, given, prepared, hyper)
    back = agreed(model, inputs, first, given.forget)
    larger = readmitted(given, back)
    found, after = once.solve(key, variables, larger, prepared, hyper)
    cost = before['gradient_evaluations'] + after['gradient_evaluations']
    info = {'gradient_evaluations': cost, 'readmitted': int(back.sum())}
    return found, {**after, **info}

  needs = tuple(dict.fromkeys((*once.needs, 'forget')))
  return Method(needs, once.prepare, solve)
