"""Importances of a sweep: taken once, shared by methods and fractions."""

import jax
import numpy as np
import pytest
import small_sweep
from ssd_case import assert_close

from cmu_jax.core import errors, jit, rng
from cmu_jax.studies.corrective import (
  benchmark,
  importances,
  problem,
  trials,
)

# Whole sweeps: CI runs them in a step of their own.
pytestmark = pytest.mark.slow

CHANGES = {
  'manipulations': ('interclass',),
  'methods': ('ssd', 'assd', 'potion'),
  'model__width': 5,
  'input__pad': 0,
}
CASE = trials.Case('interclass', 30, 0)
TRIAL = trials.Trial(CASE, 0.5, 'ssd')


def _files(folder):
  paths = (folder / 'importances').glob('*.npz')
  return {path.name: path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A context and the results of its run."""
  with jit.skip_optimizations(True):
    folder = tmp_path_factory.mktemp('importances')
    context = small_sweep.context(folder, **CHANGES)
    yield context, small_sweep.finish(context)


def _files_of(context):
  return _files(context.store.folder)


def test_ssd_and_assd_share_a_file_a_fraction_and_potion_has_its_own(finished):
  assert len(_files_of(finished[0])) == 2 * 2


def test_a_grid_pays_for_its_importances_once(finished):
  for row in finished[1]['rows']:
    if row['method'] in ('ssd', 'potion'):
      assert row['hyper_points'] > 1
      spent = row['grid_gradient_evaluations']
      assert spent == row['gradient_evaluations'] > 0


def _begin(context):
  scene = benchmark.get_scene(context, CASE)
  return scene, benchmark.get_original(context, CASE)


def test_a_sweep_finds_what_ssd_finds_by_itself(finished):
  context, _ = finished
  scene, original = _begin(context)
  method = context.world.methods['interclass', 'ssd']
  found = importances.measure_or_read(context, TRIAL)
  key = rng.fold_in(scene.key, 'method', 'ssd', 'prepare')
  given = problem.give(scene.problem, 0.5, method.needs)
  alone = method.prepare(key, original, given)
  assert_close(found.pair.forget, alone.forget)
  assert_close(found.pair.retain, alone.retain)
  assert int(found.pair.cost) == int(alone.cost)
  assert float(found.seconds) > 0


def test_cells_that_are_lost_take_no_importances_again(finished):
  context, _ = finished
  before = _files_of(context)
  for path in (context.store.folder / 'cells').glob('*.json'):
    path.unlink()
  small_sweep.finish(small_sweep.context(context.store.folder, **CHANGES))
  assert _files_of(context) == before


def test_a_broken_file_is_an_error_in_one_line(finished, tmp_path):
  broken = small_sweep.context(tmp_path, **CHANGES)
  request = broken.world.methods['interclass', 'ssd'].importances
  name = importances.address(broken.config, broken.world.digest, TRIAL, request)
  (tmp_path / 'importances').mkdir()
  (tmp_path / 'importances' / f'{name[:24]}.npz').write_bytes(b'no archive')
  with pytest.raises(errors.UserError, match='remove it to make it again'):
    importances.measure_or_read(broken, TRIAL)


@pytest.mark.parametrize('denominator', ['retain', 'full'])
def test_per_sample_ones_of_all_fractions_are_one_pass(finished, denominator):
  context, _ = finished
  scene, original = _begin(context)
  ssd = context.world.methods['interclass', 'ssd'].importances
  measure = ssd.config._replace(kind='per_sample')
  request = ssd._replace(config=measure, denominator=denominator)
  shares = (0.5, 1.0)
  found = importances.measure_importances(request, scene, original, shares)
  assert int(found.cost) == scene.problem.truth.size
  grad = jax.jit(jax.vmap(_squared(context, original)))
  batch = scene.problem.train
  every = grad(batch.image, batch.label)
  for at, share in enumerate(shares):
    known = problem.find_identified(scene.problem, share)
    kept = ~known if denominator == 'retain' else np.ones_like(known)
    for tree, rows in ((found.forget, known), (found.retain, kept)):
      assert_close(
        jax.tree.map(lambda x, at=at: x[at], tree),
        jax.tree.map(lambda x, r=rows: np.asarray(x)[r].mean(0), every),
      )


def _squared(context, original):
  """Squared gradients of one sample, written out."""
  one = context.world.worlds['interclass']

  def squared(image, label):
    def loss(params):
      x = one.inputs.eval(image[None], None)
      logits = one.model.apply(original._replace(params=params), x)
      return -jax.nn.log_softmax(logits)[0, label]

    return jax.tree.map(lambda g: g * g, jax.grad(loss)(original.params))

  return squared


def test_files_depend_on_what_importances_depend_on_alone(finished):
  context, _ = finished
  ssd = context.world.methods['interclass', 'ssd'].importances
  name = lambda config, request: importances.address(
    config, context.world.digest, TRIAL, request
  )
  one = name(context.config, ssd)
  assert name(small_sweep.config(**CHANGES, unlearn__steps=3), ssd) == one
  others = [
    ssd._replace(denominator='full'),
    ssd._replace(config=ssd.config._replace(batch_size=9)),
    ssd._replace(config=ssd.config._replace(kind='per_sample')),
  ]
  assert len({one, *(name(context.config, r) for r in others)}) == 4
  wider = small_sweep.config(**{**CHANGES, 'model__width': 6})
  assert name(wider, ssd) != one
