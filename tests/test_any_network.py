"""The examples of docs/any_network.md, run as they stand, and repaired."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmu_jax import networks
from cmu_jax.core import rng, tree
from cmu_jax.core.types import Variables
from cmu_jax.data import input_step, proxy_sets, sources, splits

TEXT = (pathlib.Path(__file__).parents[1] / 'docs/any_network.md').read_text()
BLOCKS = dict(
  re.findall(r'^## ([^\n]+)\n.*?```python\n(.*?)```', TEXT, re.M | re.S)
)


@pytest.mark.parametrize('name', ('Flax linen', 'Flax NNX', 'Equinox', 'Haiku'))
def test_an_example_runs_and_its_network_is_repaired(name, capsys):
  if name == 'Equinox':
    pytest.importorskip('equinox', reason='equinox is not installed')
  if name == 'Haiku':
    pytest.importorskip('haiku', reason='dm-haiku is not installed')
  step = input_step.make((0.5,), (0.5,))
  digits = sources.load('digits')
  pool, _ = splits.hold_out(rng.fold_in(0, 'pool'), digits.train, 0.1, 10)
  scope = {
    'images': step.eval(digits.test.image, None),
    'inputs': step,
    'proxy': proxy_sets.make_proxy(
      rng.fold_in(0, 'p'), 'symmetric', pool, 2, 10
    ),
  }
  exec(BLOCKS[name] + BLOCKS['The repair'], scope)
  before, after = scope['variables'], scope['repaired']
  assert jax.tree.structure(before) == jax.tree.structure(after)
  tau, alpha = scope['info']['tau'], scope['info']['alpha']
  assert float(tree.norm(tau)) > 0
  expected = tree.edit(before.params, tau, alpha)
  for a, b in zip(
    jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  assert scope['model'].apply(after, scope['images']).shape == (
    len(scope['images']),
    10,
  )


def test_statistics_stay_without_an_update_and_change_with_one():
  features = lambda v, x: x * v.params['w']
  head = lambda v, z: z + 1
  variables = Variables({'w': jnp.float32(2)}, {'m': jnp.float32(3)})
  image = jnp.ones((2, 4))
  still = networks.from_functions(features, head)
  logits, stats = still.update(variables, image)
  np.testing.assert_array_equal(logits, still.apply(variables, image))
  assert stats is variables.batch_stats
  moving = networks.from_functions(features, head, lambda v, x: (x, {'m': 4}))
  assert moving.update(variables, image)[1] == {'m': 4}
  with pytest.raises(ValueError, match='start from variables of your own'):
    still.init(jax.random.key(0), image)
