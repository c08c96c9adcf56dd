"""No method of the roster reads what it did not declare."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_sweep

from cmu_jax.core import jit, rng
from cmu_jax.methods import catalogue, study_names
from cmu_jax.studies.corrective import problem as problems
from cmu_jax.studies.corrective import roster, world
from cmu_jax.studies.engine import binding

FRACTION = 0.5
# The others declare both parts of S_tr: from them nothing else is hidden, and
# what they did not declare beyond that is None.
NAMES = [
  name
  for canonical, name in study_names.NAMES[study_names.CORRECTIVE].items()
  if not {'retain', 'forget'} <= {*catalogue.ENTRIES[canonical].needs}
  # The last two are as their neighbours, and `none` has no method.
  and name not in ('none', 'eu_k', 'cuts_grid')
]


@pytest.fixture(scope='module')
def posed():
  config = small_sweep.config(
    proxy_fraction=0.2, train_limit=300, methods=tuple(NAMES)
  )
  dataset = binding.load(config).dataset
  one = world.bind_world(config, dataset, 'interclass')
  scene = world.draw_scene(config, one, 20, 0)
  image = one.inputs.eval(scene.reported.image[:1], None)
  start = one.model.init(jax.random.key(0), image)
  return config, one, scene.problem, start


def _spoiled(problem, needs):
  """The problem with everything overwritten that is not declared."""
  known = problems.find_identified(problem, FRACTION)
  hidden = np.zeros(known.size, bool)
  hidden |= ~known & (not {'retain', 'ordinary'} & {*needs})
  hidden |= known & ('forget' not in needs)
  batch = problem.train
  where = jnp.asarray(hidden)
  train = batch._replace(
    image=jnp.where(where[:, None, None, None], 255 - batch.image, batch.image),
    label=jnp.where(where, (batch.label + 1) % 10, batch.label),
  )
  others = {
    name: None
    for name in ('proxy', 'clean_proxy', 'validation')
    if name not in needs
  }
  # Unlabelled images are seen, and their labels are not.
  if 'retain' not in needs:
    label = jnp.where(known, train.label, (train.label + 3) % 10)
    train = train._replace(label=label)
  return problem._replace(
    train=train, truth=np.zeros_like(problem.truth), **others
  )


@pytest.mark.parametrize('name', NAMES)
def test_what_is_not_declared_cannot_be_reached(name, posed):
  config, one, problem, start = posed
  method = roster.ENTRIES[name].make(config, one, problem.truth.size)
  method = method._replace(grid=method.grid[:1])
  found = []
  with jit.skip_optimizations(True):
    for seen in (problem, _spoiled(problem, method.needs)):
      given = problems.give(seen, FRACTION, method.needs)
      key = rng.fold_in(0, name)
      prepared = method.prepare(key, start, given)
      found.append(method.solve(key, start, given, prepared, method.grid[0])[0])
  for a, b in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_every_method_declares_parts_that_exist(posed):
  config, one, problem, _ = posed
  for name, entry in roster.ENTRIES.items():
    method = entry.make(config, one, problem.truth.size)
    assert set(method.needs) <= set(problems.NEEDS), name
    whole = {'retain', 'forget'} <= set(method.needs)
    assert whole or name in (*NAMES, 'eu_k', 'cuts_grid'), name
    assert all(config[field] is not None for field in entry.settings), name
    assert roster.information(method).startswith('weights')
    names = {tuple(sorted(point)) for point in method.grid}
    assert len(names) == 1, name
    assert len({tuple(p.items()) for p in method.grid}) == len(method.grid)
