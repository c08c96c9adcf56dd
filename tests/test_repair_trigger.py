"""A painted trigger, found by comparing bad samples with other pictures."""

import numpy as np

from cmu_jax.commands.repair.subject import locate_trigger


def test_a_trigger_is_found_where_there_is_one_and_nowhere_else():
  rng = np.random.default_rng(0)
  ordinary, others = rng.integers(0, 200, (2, 40, 8, 8, 3), dtype=np.uint8)
  ordinary[:, 0], others[:, 0] = 0, 0  # A border that is always black.
  bad = others.copy()
  bad[:, 5:7, 3] = (250, 10, 99)
  found = locate_trigger(bad, ordinary)
  assert np.argwhere(np.asarray(found.mask)).tolist() == [[5, 3], [6, 3]]
  assert np.asarray(found.value)[5, 3].tolist() == [250, 10, 99]
  assert locate_trigger(others, ordinary) is None
