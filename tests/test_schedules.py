"""Learning rates at chosen steps, against the formulas of the papers."""

import jax
import numpy as np
import pytest

from cmu_jax.core import errors
from cmu_jax.training import optimizers


def rates(schedule, steps):
  return np.asarray(jax.jit(jax.vmap(schedule))(np.asarray(steps)))


def test_procedure_a_of_4000_steps():
  found = rates(
    optimizers.procedure_a_schedule(0.025, 4000), [0, 39, 40, 41, 4000]
  )
  expected = [
    0.025 / 41,
    0.025 * 40 / 41,
    0.025,
    0.025 * (1 - 1 / 5000),
    0.025 * 0.208,
  ]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_procedure_a_of_scrub():
  found = rates(optimizers.procedure_a_schedule(0.0025, 1000), [0, 99, 1000])
  np.testing.assert_allclose(
    found, [0.0025 / 11, 0.0025 * (1 - 89 / 1250), 0.0025 * 0.208], rtol=1e-6
  )


def test_warmup_starts_at_exactly_zero_and_lasts_whole_epochs():
  schedule = optimizers.warmup_cosine_schedule(1e-4, 10, 50, 100, unit_steps=7)
  found = rates(schedule, range(0, 700))
  assert np.all(found[:7] == 0)
  np.testing.assert_allclose(found[7:14], 1e-5, rtol=1e-6)
  np.testing.assert_allclose(found[70:420], 1e-4, rtol=1e-6)
  middle = 1e-4 * (1 + np.cos(np.pi * 20 / 40)) / 2
  np.testing.assert_allclose(found[80 * 7], middle, rtol=1e-5)
  assert np.all(np.diff(found[420:]) <= 1e-12)


def test_cosine_ends_at_its_minimum():
  found = rates(
    optimizers.cosine_schedule(5e-4, 200, 5e-6, 58), [0, 57, 58, 200 * 58]
  )
  first = 5e-6 + (5e-4 - 5e-6) * (1 + np.cos(np.pi / 200)) / 2
  np.testing.assert_allclose(found, [5e-4, 5e-4, first, 5e-6], rtol=1e-5)


def test_multistep_falls_at_its_milestones():
  schedule = optimizers.multistep_schedule(
    1e-4, [50, 100, 150, 200, 250], 0.8, 2
  )
  found = rates(schedule, [0, 99, 100, 299, 300, 599])
  expected = 1e-4 * 0.8 ** np.array([0, 0, 1, 2, 3, 5])
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_warmup_that_does_not_fit_is_refused():
  with pytest.raises(errors.UserError, match='must be below 100 units'):
    optimizers.warmup_cosine_schedule(1e-3, 60, 40, 100)
