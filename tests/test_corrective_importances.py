"""Importances of a sweep: taken once, shared by methods and fractions."""

import jax
import numpy as np
import pytest
import small_sweep
from ssd_case import assert_close

from cmu_jax.core import errors, jit, rng
from cmu_jax.studies.corrective import (
  cells,
  importances,
  problem,
  stage,
  study,
)
from cmu_jax.studies.engine import run

# Whole sweeps: CI runs them in a step of their own.
pytestmark = pytest.mark.slow

CHANGES = {
  'manipulations': ('interclass',),
  'methods': ('ssd', 'assd', 'potion'),
  'model__width': 5,
  'input__pad': 0,
}
CASE = cells.Case('interclass', 30, 0)


def _context(folder, **changes):
  made = small_sweep.config(**{**CHANGES, **changes})
  return run.make_context(made, stage.load(made, folder), folder)


def _files(folder):
  paths = (folder / 'importances').glob('*.npz')
  return {path.name: path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope='module')
def swept(tmp_path_factory):
  with jit.skip_optimizations(True):
    context = _context(tmp_path_factory.mktemp('importances'))
    assert run.follow_plan(study.STUDY, context)[1]
    yield context


def test_ssd_and_assd_share_a_file_a_fraction_and_potion_has_its_own(swept):
  assert len(_files(swept.store.folder)) == 2 * 2


def test_a_grid_pays_for_its_importances_once(swept):
  rows = run.follow_plan(study.STUDY, swept)[0]['rows']
  for row in rows:
    if row['method'] in ('ssd', 'potion'):
      assert row['hyper_points'] > 1
      spent = row['grid_gradient_evaluations']
      assert spent == row['gradient_evaluations'] > 0


def _begun(context):
  scene = stage.draw_scene(context, CASE)
  return scene, stage.train_original(context, CASE, scene)


def test_a_sweep_finds_what_ssd_finds_by_itself(swept):
  scene, original = _begun(swept)
  method = swept.world.methods['interclass', 'ssd']
  cell = cells.Cell(CASE, 0.5, 'ssd')
  found = importances.read_or_measure(
    swept, cell, method.importances, scene, original
  )
  key = rng.fold_in(scene.key, 'method', 'ssd', 'prepare')
  given = problem.give(scene.problem, 0.5, method.needs)
  alone = method.prepare(key, original, given)
  assert_close(found.pair.forget, alone.forget)
  assert_close(found.pair.retain, alone.retain)
  assert int(found.pair.cost) == int(alone.cost)
  assert float(found.seconds) > 0


def test_cells_that_are_lost_take_no_importances_again(swept):
  before = _files(swept.store.folder)
  for path in (swept.store.folder / 'cells').glob('*.json'):
    path.unlink()
  assert run.follow_plan(study.STUDY, _context(swept.store.folder))[1]
  assert _files(swept.store.folder) == before


def test_a_broken_file_is_an_error_in_one_line(swept, tmp_path):
  scene, original = _begun(swept)
  request = swept.world.methods['interclass', 'ssd'].importances
  cell = cells.Cell(CASE, 0.5, 'ssd')
  name = importances.address(swept.config, swept.world.digest, cell, request)
  (tmp_path / 'importances').mkdir()
  (tmp_path / 'importances' / f'{name[:24]}.npz').write_bytes(b'no archive')
  with pytest.raises(errors.UserError, match='remove it to make it again'):
    importances.read_or_measure(
      _context(tmp_path), cell, request, scene, original
    )


@pytest.mark.parametrize('denominator', ['retain', 'full'])
def test_per_sample_ones_of_all_fractions_are_one_pass(swept, denominator):
  scene, original = _begun(swept)
  ssd = swept.world.methods['interclass', 'ssd'].importances
  measure = ssd.config._replace(kind='per_sample')
  request = ssd._replace(config=measure, denominator=denominator)
  shares = (0.5, 1.0)
  found = importances.take(request, scene, original, shares)
  assert int(found.cost) == scene.problem.truth.size
  grad = jax.jit(jax.vmap(_squared(swept, original)))
  batch = scene.problem.train
  every = grad(batch.image, batch.label)
  for at, share in enumerate(shares):
    known = problem.identified(scene.problem, share)
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


def test_files_depend_on_what_importances_depend_on_alone(swept):
  ssd = swept.world.methods['interclass', 'ssd'].importances
  cell = cells.Cell(CASE, 0.5, 'ssd')
  name = lambda config, request: importances.address(
    config, swept.world.digest, cell, request
  )
  one = name(swept.config, ssd)
  assert name(small_sweep.config(**CHANGES, unlearn__steps=3), ssd) == one
  others = [
    ssd._replace(denominator='full'),
    ssd._replace(config=ssd.config._replace(batch_size=9)),
    ssd._replace(config=ssd.config._replace(kind='per_sample')),
  ]
  assert len({one, *(name(swept.config, r) for r in others)}) == 4
  wider = small_sweep.config(**{**CHANGES, 'model__width': 6})
  assert name(wider, ssd) != one
