"""Requests in turn: who sees what, from which weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import unlearning_case as case

from cmu_jax.core import errors, jit
from cmu_jax.core.types import Batch, Method, Network, Training, Variables
from cmu_jax.methods import amun, wrappers

ROWS = 12
TRAIN = Batch(
  jnp.arange(ROWS, dtype=jnp.uint8)[:, None, None, None],
  jnp.arange(ROWS, dtype=jnp.int32),
)
REQUESTS = [np.array([3, 1]), np.array([7]), np.array([0, 11, 5])]
START = Variables(jnp.float32(0), {})


def _spy(needs, log):
  """A method that adds 1 and writes down what it sees."""

  def prepare(key, variables, given):
    del key
    return float(variables.params), given

  def solve(key, variables, given, prepared, hyper):
    number = float(jax.random.uniform(key))
    log.append((prepared[0], float(variables.params), given, hyper, number))
    return Variables(variables.params + 1, {}), {'gradient_evaluations': 1}

  return Method(needs, prepare, solve, ({'rate': 1.0}, {'rate': 2.0}))


def _labels(samples):
  """Labels of the rows that count, which are their numbers here."""
  return set(
    np.asarray(samples.batch.label)[np.asarray(samples.valid)].tolist()
  )


@pytest.mark.parametrize('adaptive', [False, True])
def test_requests_leave_the_retained_set_one_after_the_other(adaptive):
  log = []
  found = wrappers.unlearn_continuously(
    jax.random.key(0),
    _spy(('retain', 'forget'), log),
    START,
    TRAIN,
    REQUESTS,
    adaptive=adaptive,
  )
  assert [float(v.params) for v, _ in found] == [1, 2, 3]
  gone = set()
  for position, (seen, began, given, hyper, _) in enumerate(log):
    gone |= set(REQUESTS[position].tolist())
    assert _labels(given.forget) == set(REQUESTS[position].tolist())
    assert _labels(given.retain) == set(range(ROWS)) - gone
    assert given.retain.valid.shape == (ROWS,)
    assert given.forget.valid.shape == (3,)
    assert given.forget.identified.all() and not given.retain.identified.any()
    assert began == position and seen == (position if adaptive else 0)
    assert hyper == {'rate': 1.0}
  assert len({number for *_, number in log}) == 3


def test_a_method_sees_only_what_it_needs():
  log = []
  wrappers.unlearn_continuously(
    jax.random.key(0),
    _spy(('forget',), log),
    START,
    TRAIN,
    REQUESTS,
    adaptive=True,
    hyper={'rate': 2.0},
  )
  assert all(given.retain is None for _, _, given, _, _ in log)
  assert all(hyper == {'rate': 2.0} for *_, hyper, _ in log)


@pytest.mark.parametrize(
  ('requests', 'says'),
  [
    ([], 'no requests'),
    ([np.array([1]), np.array([], int)], 'request 1 is empty'),
    ([np.array([1, 12])], 'rows 1 to 12 of 12'),
    ([np.array([1]), np.array([2, 1])], 'requested twice'),
    ([np.arange(12)], 'nothing to retain'),
  ],
)
def test_requests_that_cannot_be_are_one_line(requests, says):
  with pytest.raises(errors.UserError, match=says):
    wrappers.unlearn_continuously(
      jax.random.key(0), _spy((), []), START, TRAIN, requests, adaptive=True
    )


@pytest.mark.slow
def test_amun_of_the_original_is_amun_again_at_the_first_request():
  """From there on, the two see other adversarial images."""
  model, start = case.network()
  method = amun.amun(
    Network(model, case.PIXELS),
    training=Training(optimizer=optax.sgd(0.3), steps=2, batch_size=6),
  )
  train = case.samples(5, ROWS).batch
  requests = [np.array([0, 1, 2]), np.array([3, 4, 5])]
  with jit.skip_optimizations(True):
    one, two = (
      wrappers.unlearn_continuously(
        case.KEY, method, start, train, requests, adaptive=adaptive
      )
      for adaptive in (False, True)
    )
  first, second = (
    jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), x[0], y[0])
    for x, y in zip(one, two, strict=True)
  )
  assert max(jax.tree.leaves(first)) == 0
  assert max(jax.tree.leaves(second)) > 0
