"""The benchmark's audit of wrong labels: what is offered, counted and shown."""

import corrective_fakes
import jax
import numpy as np
import pytest
import small_sweep
from jax import numpy as jnp

from cmu_jax.audits import shadow
from cmu_jax.core.types import Model, Network, Variables
from cmu_jax.report import frame
from cmu_jax.studies.corrective import (
  benchmark,
  measure,
  problem,
  references,
  report,
  summary,
  tables,
  trials,
  world,
)
from cmu_jax.studies.engine import binding
from cmu_jax.studies.engine.store import TimeIsUp


def scene_of(kind, **changes):
  config = small_sweep.config(**changes)
  dataset = binding.load(config).dataset
  one = world.bind_world(config, dataset, kind)
  return one, world.draw_scene(config, one, config[kind].sizes[0], 0)


@pytest.mark.parametrize('kind', ['poison', 'interclass'])
def test_two_wrong_labels_are_offered_of_each_image(kind):
  one, scene = scene_of(kind, audit='rmia')
  offer = measure.select_images(one, scene).recovered
  where = np.flatnonzero(problem.find_manipulated(scene.problem))
  label = np.asarray(scene.problem.train.label)[where]
  truth = scene.problem.truth[where]
  wrong = label != truth
  np.testing.assert_array_equal(offer.batch.label, label[wrong])
  assert (offer.other != label[wrong]).all()
  assert (offer.other != truth[wrong]).all()
  if kind == 'poison':
    # What already was of the target class has no wrong label.
    assert wrong.sum() < where.size
    assert np.asarray(offer.batch.has_trigger).all()
  silent = scene_of(kind)[0]
  assert measure.select_images(silent, scene).recovered is None


def told(strength):
  """A network that scores the target class by so much above all others."""
  apply = lambda variables, image: (
    variables.params * jnp.eye(10)[jnp.zeros(len(image), int)]
  )
  return Model(None, apply, None, None, None), Variables(strength, {})


def test_shares_of_labels_that_score_higher():
  """Poison is labelled 0: a network that always says so knows all of it."""
  one, scene = scene_of('poison', audit='rmia')
  images = measure.select_images(one, scene)
  model, _ = told(0.0)
  look = jax.jit(measure.make_predictor(Network(model, one.inputs), 8))
  before = look(told(0.0)[1], images)
  for strength, share in ((5.0, 1.0), (0.0, 0.5), (-5.0, 0.0)):
    found = look(told(strength)[1], images)
    host = measure.Probe(*(None if x is None else np.asarray(x) for x in found))
    first = measure.Probe(
      *(None if x is None else np.asarray(x) for x in before)
    )
    row = measure.compute_measures(one, scene, host, first, 1.0)
    assert row['label_recovery'] == share


def test_a_label_counts_for_more_than_references_make_of_it():
  """Networks that say the target class anyway make it no evidence."""
  one, scene = scene_of('poison', audit='rmia')
  count = measure.select_images(one, scene).recovered.other.size
  model, variables = told(5.0)
  look = jax.jit(measure.make_predictor(Network(model, one.inputs), 8))
  for expected, share in ((4.0, 1.0), (5.0, 0.5), (6.0, 0.0)):
    beside = scene._replace(expected=np.full(count, expected, np.float32))
    seen = look(variables, measure.select_images(one, beside)).recovered
    assert float(np.mean(seen)) == share


def _context(folder, kind, **changes):
  return small_sweep.context(folder, manipulations=(kind,), **changes)


def _case(context):
  return trials.list_cases(context.config)[0]


def test_references_never_saw_the_manipulated_images(tmp_path, monkeypatch):
  context = _context(tmp_path, 'interclass', audit='rmia', references=2)
  case, seen = _case(context), []
  real = shadow.make_job

  def watched(key, model, data, inside, *others, **options):
    seen.append(inside)
    return real(key, model, data, inside, *others, **options)

  monkeypatch.setattr(shadow, 'make_job', watched)
  with pytest.raises(TimeIsUp):
    references.add_expectations(context, case)
  for cell in references.list_cells(context, case):
    cell.compute()
  found = references.add_expectations(context, case)
  assert not seen[0][:, problem.find_manipulated(found.problem)].any()
  assert seen[0][:, ~problem.find_manipulated(found.problem)].all()
  offer = measure.select_images(
    context.world.worlds['interclass'], found
  ).recovered
  assert found.expected.shape == offer.other.shape
  assert np.ptp(found.expected) > 0
  # The same files give the same numbers.
  monkeypatch.setattr('cmu_jax.training.train.run_segments', None)
  again = references.add_expectations(context, case)
  np.testing.assert_array_equal(found.expected, again.expected)


@pytest.mark.parametrize(
  'changes', [{'audit': 'rmia', 'references': 0}, {'references': 2}]
)
def test_without_references_nothing_is_trained(tmp_path, changes):
  context = _context(tmp_path, 'interclass', **changes)
  case = _case(context)
  scene = benchmark.get_scene(context, case)
  assert references.add_expectations(context, case) is scene


def test_only_runs_with_an_audit_have_other_addresses():
  case = trials.Case('poison', 20, 0)
  trial = trials.Trial(case, 0.5, 'cf')
  both = small_sweep.config(), small_sweep.config(audit='rmia')
  first, second = (trials.trial_address(c, 'sum', trial) for c in both)
  assert first != second
  # The original network is the same one.
  first, second = (trials.case_address(c, 'sum', case) for c in both)
  assert first == second


def test_it_shows_in_tables_and_on_the_page(tmp_path):
  run = corrective_fakes.mixed()
  before = frame.render(report.REPORT, run, [])
  assert 'Are the wrong labels still in there?' not in before
  for row in run['rows']:
    row['label_recovery'] = 0.75
  corrective_fakes.save(tmp_path, run)
  found = summary.read(tmp_path)
  names = [
    n for n in tables.build_tables(found) if n.endswith('_label_recovery')
  ]
  assert names
  text = frame.render(report.REPORT, found, [])
  assert 'Are the wrong labels still in there?' in text
  assert 'without references' in text
  found['config']['references'] = 4
  assert 'than 4 networks trained without' in frame.render(
    report.REPORT, found, []
  )
