"""The verdict follows from paired differences, and names every harm."""

import numpy as np
import pytest
import report_fakes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from cmu_jax.core import errors
from cmu_jax.report import page, stats
from cmu_jax.studies.cuts import verdict


def _rows(method, accuracies, attack=None, **more):
  attack = attack or [None] * len(accuracies)
  return [
    report_fakes.row(method, seed, a, attack_success_rate=r, **more)
    for seed, (a, r) in enumerate(zip(accuracies, attack, strict=True))
  ]


def _classes(method, *accuracies):
  return [
    {'method': method, 'seed': seed, 'accuracy': accuracy}
    for seed, accuracy in enumerate(accuracies)
  ]


def _noise(before, after, oracle=(), alpha=1.0, smoke=False, per_class=()):
  return {
    'task': 'label_noise',
    'smoke': smoke,
    'class_names': ['cat', 'dog'],
    'rows': _rows('corrupted', before)
    + _rows('cuts', after, alpha=alpha, selected=True)
    + _rows('oracle', oracle),
    'per_class': list(per_class),
  }


def _poison(before, after, attack_before, attack_after, per_class=()):
  return _noise(before, after, per_class=per_class) | {
    'task': 'poison',
    'rows': _rows('corrupted', before, attack_before)
    + _rows('cuts', after, attack_after, alpha=2.0, selected=True),
  }


@pytest.mark.parametrize(
  'before, after, oracle, label',
  [
    ([0.8, 0.81, 0.79], [0.97, 0.98, 0.97], [0.98, 0.98, 0.98], 'repaired'),
    ([0.8, 0.81, 0.79], [0.9, 0.9, 0.9], [0.98] * 3, 'partly repaired'),
    # Full recovery on average, but the seeds disagree too much to tell.
    ([0.8, 0.8], [0.99, 0.82], [0.9, 0.9], 'no clear change'),
    ([0.8, 0.8, 0.8], [0.805, 0.8, 0.796], [0.98] * 3, 'no clear change'),
    ([0.8, 0.8, 0.8], [0.79, 0.77, 0.79], [0.98] * 3, 'made worse'),
    # Under a point, yet every seed fell by the same.
    ([0.8, 0.8, 0.8], [0.795, 0.795, 0.795], [0.98] * 3, 'made worse'),
    # More than a point on average, though the interval holds zero.
    ([0.8, 0.8], [0.70, 0.82], [0.98] * 2, 'made worse'),
    # Without an oracle or with one seed the full label cannot be earned.
    ([0.8, 0.81, 0.79], [0.97, 0.98, 0.97], [], 'partly repaired'),
    ([0.8], [0.98], [0.98], 'partly repaired'),
    ([0.8], [0.805], [0.98], 'no clear change'),
    ([0.8], [0.78], [0.98], 'made worse'),
    # Nothing to recover: the corrupted model equals the oracle.
    ([0.9, 0.9], [0.9, 0.9], [0.9, 0.9], 'no clear change'),
  ],
)
def test_label_noise_labels(before, after, oracle, label):
  found = verdict.decide(_noise(before, after, oracle))
  assert found.label == label
  assert all(sentence.endswith('.') for sentence in found.sentences)


@pytest.mark.parametrize(
  'after, attack_before, attack_after, label',
  [
    (0.96, 0.98, 0.01, 'repaired'),
    (0.95, 0.98, 0.05, 'repaired'),
    (0.96, 0.98, 0.30, 'partly repaired'),
    (0.96, 0.98, 0.60, 'no clear change'),
    (0.94, 0.98, 0.01, 'made worse'),
    (0.97, 0.50, 0.60, 'made worse'),
    # The attack never worked: there was nothing to repair.
    (0.97, 0.02, 0.00, 'no clear change'),
  ],
)
def test_poison_labels(after, attack_before, attack_after, label):
  run = _poison(
    [0.97] * 3, [after] * 3, [attack_before] * 3, [attack_after] * 3
  )
  assert verdict.decide(run).label == label


def test_a_deleted_class_is_no_repair_and_is_said_first():
  run = report_fakes.results('poison')
  found = verdict.decide(run)
  assert found.label == 'made worse'
  assert found.harmed == (page.Harm('0', 1.0, 0.0),)
  assert found.sentences[0] == (
    'The trigger no longer works, but '
    "class '0' is no longer recognised: 1.00 → 0.00."
  )


def test_a_small_class_is_harm_even_if_accuracy_barely_moves():
  per_class = _classes('corrupted', [0.97, 0.9]) + _classes(
    'cuts', [0.97, 0.84]
  )
  run = _poison([0.97], [0.965], [0.98], [0.0], per_class)
  found = verdict.decide(run)
  assert found.label == 'made worse'
  assert [harm.name for harm in found.harmed] == ['dog']
  assert 'got worse: 0.90 → 0.84' in found.sentences[0]


@pytest.mark.parametrize('after, count', [(0.85, 0), (0.8499, 1), (0.95, 0)])
def test_harm_starts_just_above_five_points(after, count):
  per_class = _classes('corrupted', [0.9, 0.5]) + _classes('cuts', [after, 0.5])
  run = _noise([0.8], [0.9], per_class=per_class)
  assert len(verdict.find_harmed_classes(run)) == count


def test_harm_averages_seeds_and_skips_classes_without_images():
  per_class = _classes('corrupted', [0.9, None], [0.8, None])
  per_class += _classes('cuts', [0.9, None], [0.6, None], [0.0, 0.0])
  harms = verdict.find_harmed_classes(_noise([0.8], [0.8], per_class=per_class))
  assert [harm.name for harm in harms] == ['cat']
  np.testing.assert_allclose(harms[0][1:], (0.85, 0.75))


def test_unrecorded_classes_are_not_called_unharmed():
  said = ' '.join(verdict.decide(_noise([0.8], [0.9])).sentences)
  assert 'not recorded' in said and 'No class fell' not in said


@pytest.mark.parametrize('task', ['label_noise', 'poison'])
def test_abstaining_everywhere_leaves_it_as_it_was(task):
  run = report_fakes.results(task, selected=False)
  for row in run['rows']:
    if row['method'] == 'cuts':
      row['alpha'] = 0.0
  found = verdict.decide(run)
  assert found.label == 'left as it was'
  assert 'the weights' in found.sentences[0]


def test_abstaining_in_one_seed_is_mentioned():
  run = report_fakes.results('poison')
  cuts = [row for row in run['rows'] if row['method'] == 'cuts']
  cuts[1].update(alpha=0.0, selected=False)
  found = verdict.decide(run)
  assert found.label != 'left as it was'
  assert 'CUTS changed nothing in 1 of 3 seeds.' in found.sentences


def test_how_sure_names_seeds_interval_and_smoke():
  run = _noise([0.8, 0.8, 0.8], [0.9, 0.92, 0.94], [0.98] * 3, smoke=True)
  sure = ' '.join(verdict.decide(run).sure)
  assert 'not evidence' in sure and '3 seeds' in sure
  # 12 points, t(2) = 4.303, standard error 2 / sqrt(3) points.
  assert '+12.0 points, 95 % interval +7.0 to +17.0' in sure
  assert 'One seed' in ' '.join(verdict.decide(_noise([0.8], [0.9])).sure)


def test_without_a_pair_of_seeds_there_is_no_verdict():
  run = _noise([0.8], [0.9])
  run['rows'][0]['test_accuracy'] = None
  with pytest.raises(errors.UserError, match='no seed has test_accuracy'):
    verdict.decide(run)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_interval_agrees_with_scipy(values):
  difference = np.array(values)
  found = stats.interval(difference)
  if difference.std() > 1e-6:
    expected = scipy_stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    np.testing.assert_allclose(found[1:], expected, rtol=1e-9, atol=1e-12)
  assert found.low <= found.mean <= found.high


@settings(max_examples=40, deadline=None)
@given(
  st.lists(
    st.tuples(*[st.floats(0, 1)] * 3, st.booleans()), min_size=1, max_size=4
  )
)
def test_any_accuracies_get_a_label_that_never_calls_a_fall_a_repair(table):
  before, after, oracle, chosen = map(list, zip(*table, strict=True))
  run = _noise(before, after, oracle)
  cuts = [row for row in run['rows'] if row['method'] == 'cuts']
  for row, selected in zip(cuts, chosen, strict=True):
    row['selected'] = selected
  found = verdict.decide(run)
  if np.mean(after) < np.mean(before):
    assert 'repaired' not in found.label
  if not any(chosen):
    assert found.label == 'left as it was'


@pytest.mark.parametrize('edits', [0, 1, 2, 3])
def test_a_repair_without_labels_leads_where_its_runs_agree(edits):
  """Verdict and sentences are then those of information maximisation."""
  results = _noise([0.7] * 3, [0.8, 0.81, 0.79], [0.98] * 3)
  accuracies = [0.9, 0.91, 0.9][:edits] + [0.7] * (3 - edits)
  rows = _rows('information_maximization_safe', accuracies, alpha=None)
  for seed, row in enumerate(rows):
    row['selected'] = seed < edits
  results['rows'] += rows
  decision = verdict.decide(results)
  text = ' '.join(decision.sentences)
  if edits < 2:
    assert verdict.choose_lead(results) == 'cuts'
    assert 'CUTS recovers' in text and 'leads' not in text
  else:
    assert verdict.choose_lead(results) == 'information_maximization_safe'
    assert f'alike in {edits} of 3 seeds' in text
    assert 'Safe information maximisation recovers' in text
    assert ('changed nothing in 1 of 3 seeds' in text) == (edits == 2)
