"""A resample has the statistics of scores that are repeated as often."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.audits import resampling, roc_curves

# Few different values, so that many are tied, within and across kinds.
SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(SCORES, SCORES, st.data())
def test_statistics_are_those_of_repeated_scores(first, second, data):
  positive, negative = np.array(first, float), np.array(second, float)

  def weights(size):
    drawn = st.lists(st.integers(0, 3), min_size=size, max_size=size)
    one = data.draw(drawn.filter(any))
    return np.array([one, np.ones(size, int)], np.int32)

  members, others = weights(positive.size), weights(negative.size)
  at = resampling.sort_scores(positive, negative)
  found = resampling.resample_statistics(
    at, members[:, at.positive], others[:, at.negative]
  )
  for i in range(2):
    curve = roc_curves.roc(
      np.repeat(positive, members[i]), np.repeat(negative, others[i])
    )
    expected = roc_curves.curve_statistics(curve)
    for one, other in zip(found, expected, strict=True):
      np.testing.assert_allclose(one[i], other, atol=1e-12)


def test_counts_are_of_each_row():
  draws = np.array([[0, 0, 2], [1, 1, 1]])
  np.testing.assert_array_equal(
    resampling.count_draws(draws), [[2, 0, 1], [0, 3, 0]]
  )
