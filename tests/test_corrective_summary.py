"""alpha_0.9 and all other numbers follow from the rows alone."""

import corrective_fakes as fakes
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from cmu_jax.methods import study_names
from cmu_jax.report import stats
from cmu_jax.studies.corrective import headline, looks, summary
from cmu_jax.studies.corrective.summary import Cell, Line

POISON, CONFUSED = fakes.PROBLEMS
SSD = Line(POISON, 'ssd', 'paper')
CF = Line(CONFUSED, 'cf', 'paper')
ACCURACY = st.floats(0, 1)


def brute(fractions, values, bar):
  """The definition, word for word: the least f with all f' >= f good."""
  good = [
    f
    for f in fractions
    if all(
      v is not None and v >= bar - 1e-9
      for g, v in zip(fractions, values, strict=True)
      if g >= f
    )
  ]
  return min(good, default=None)


@hypothesis.given(st.lists(st.none() | ACCURACY, max_size=10), ACCURACY)
def test_the_smallest_fraction_is_that_of_the_definition(values, bar):
  fractions = [(i + 1) / 10 for i in range(len(values))]
  found = headline.find_smallest(fractions, values, bar)
  assert found == brute(fractions, values, bar)


@hypothesis.given(st.lists(ACCURACY, min_size=1, max_size=10), ACCURACY)
def test_on_a_rising_curve_it_is_where_the_bar_is_first_reached(values, bar):
  values = sorted(values)
  fractions = [(i + 1) / 10 for i in range(len(values))]
  first = [f for f, v in zip(fractions, values, strict=True) if v >= bar - 1e-9]
  expected = first[0] if first else None
  assert headline.find_smallest(fractions, values, bar) == expected


def _set(run, values, **wanted):
  for row, value in zip(fakes.pick(run, **wanted), values, strict=True):
    row['acc_corr'] = value


def _bare(corr, gold, idle):
  """One method, three seeds, four fractions, all accuracies given."""
  run = fakes.results(methods=('cf', 'rewod'), problems=(POISON,))
  for rule in ('paper', 'oracle'):
    _set(run, np.ravel(corr).tolist(), method='cf', selection=rule)
    _set(run, idle, method='none', selection=rule)
    at = {'method': 'rewod', 'identified_fraction': 1.0, 'selection': rule}
    _set(run, gold, **at)
  return summary.index_rows(run)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
  st.lists(st.lists(ACCURACY, min_size=4, max_size=4), min_size=3, max_size=3),
  st.lists(ACCURACY, min_size=3, max_size=3),
)
def test_alpha_of_seeds_and_of_their_mean_from_rows(corr, gold):
  view = _bare(corr, gold, [0.0] * 3)
  for line in (Line(POISON, 'cf', rule) for rule in summary.SELECTIONS):
    cases = [(None, np.mean(corr, axis=0), np.mean(gold))]
    cases += [(seed, corr[seed], gold[seed]) for seed in range(3)]
    for seed, values, best in cases:
      found = headline.find_alpha(view, line, seed)
      assert found.value == brute(fakes.FRACTIONS, list(values), 0.9 * best)
      if 0.9 * best <= 1e-9:
        assert found.status == 'already_satisfied'
      else:
        expected = 'never' if found.value is None else 'reached'
        assert found.status == expected


def test_what_is_exactly_the_bar_reaches_it():
  view = _bare(np.full((3, 4), 0.882), [0.98] * 3, [0.1] * 3)
  found = headline.find_alpha(view, Line(POISON, 'cf', 'paper'))
  assert found == (0.1, 'reached')
  below = _bare(np.full((3, 4), 0.8819), [0.98] * 3, [0.1] * 3)
  assert headline.find_alpha(below, Line(POISON, 'cf', 'paper')) == (
    None,
    'never',
  )


def test_where_nothing_is_lost_the_bar_is_already_satisfied():
  view = _bare(np.full((3, 4), 0.95), [0.95] * 3, [0.93] * 3)
  assert headline.find_alpha(view, Line(POISON, 'cf', 'paper')) == (
    0.1,
    'already_satisfied',
  )
  idle = headline.find_alpha(view, Line(POISON, 'none', 'paper'))
  assert idle == (0.1, 'already_satisfied')


@pytest.mark.parametrize(
  'gone',
  [
    {'method': 'cf', 'identified_fraction': 0.1, 'seed': 1},
    {'method': 'none', 'seed': 1},
    {'method': 'rewod', 'identified_fraction': 1.0, 'seed': 1},
  ],
)
def test_a_missing_run_is_incomplete_and_no_guess(gone):
  run = fakes.results()
  assert headline.find_alpha(summary.index_rows(run), CF).status == 'reached'
  view = summary.index_rows(fakes.drop(run, manipulation='interclass', **gone))
  assert headline.find_alpha(view, CF) == (None, 'incomplete')
  assert headline.find_alpha(view, CF, seed=1) == (None, 'incomplete')
  assert headline.find_alpha(view, CF, seed=0).status == 'reached'
  assert headline.find_alpha(view, SSD).status == 'reached'


@pytest.mark.parametrize(
  'asked', [{'seeds': [0, 1, 2, 3]}, {'identified_fractions': [0.05, 1.0]}]
)
def test_what_the_config_asks_for_and_is_not_there_is_missing(asked):
  run = fakes.results()
  run['config'] |= asked
  view = summary.index_rows(run)
  assert headline.find_alpha(view, CF).status == 'incomplete'
  assert summary.average_fractions(view, CF, 'acc_corr').missing > 0


def test_without_everything_identified_there_is_no_gold_standard():
  view = summary.index_rows(fakes.results(fractions=(0.1, 0.5)))
  assert headline.find_alpha(view, SSD).status == 'incomplete'
  assert headline.find_bar(view, POISON) is None


@pytest.mark.parametrize('seeds', [[1], [0, 1, 2]])
def test_a_diverged_run_fails_also_within_a_mean(seeds):
  run = fakes.results()
  for seed in seeds:
    at = {'method': 'ssd', 'identified_fraction': 0.5, 'seed': seed}
    fakes.diverge(run, manipulation='poison', **at)
  view = summary.index_rows(run)
  assert headline.find_alpha(view, SSD) == (0.8, 'reached')
  assert headline.find_alpha(view, SSD, seed=1) == (0.8, 'reached')
  cell = summary.get_cell(view, SSD, 0.5, 'acc_corr')
  assert (cell.diverged, len(cell.values)) == (len(seeds), 3 - len(seeds))
  assert cell.missing == 0


@pytest.mark.parametrize('method', ['rewod', 'none'])
def test_without_a_reference_that_trained_nothing_is_defined(method):
  fraction = 1.0 if method == 'rewod' else None
  run = fakes.diverge(
    fakes.results(), method=method, identified_fraction=fraction, seed=0
  )
  view = summary.index_rows(run)
  assert headline.find_alpha(view, SSD) == (None, 'undefined')
  assert headline.find_alpha(view, SSD, seed=1).status == 'reached'


def test_one_seed_has_no_spread():
  view = summary.index_rows(fakes.results(seeds=1))
  cell = summary.get_cell(view, SSD, 0.1, 'acc_corr')
  assert cell.half is None
  assert cell.spread.std is None
  assert headline.find_alpha(view, SSD) == headline.find_alpha(
    view, SSD, seed=0
  )


@pytest.mark.parametrize('n', [2, 3, 5, 10])
def test_intervals_are_those_of_student(n):
  values = np.random.default_rng(n).random(n)
  cell = Cell(dict(enumerate(values.tolist())), n, 0, 0, 0)
  interval = stats.interval(values)
  assert cell.half == pytest.approx(interval.high - interval.mean)
  assert cell.mean == pytest.approx(values.mean())


def test_metrics_against_nothing_and_against_the_gold_standard():
  run = fakes.results()
  view = summary.index_rows(run)
  row, idle, best = (
    fakes.pick(run, manipulation='poison', seed=2, selection='paper', **more)[0]
    for more in (
      {'method': 'ssd', 'identified_fraction': 0.5},
      {'method': 'none'},
      {'method': 'rewod', 'identified_fraction': 1.0},
    )
  )
  got = [
    summary.find_value(view, SSD, 2, 0.5, metric)
    for metric in ('retain_change', 'corr_share')
  ]
  lost = 100 * (row['acc_retain'] - idle['acc_retain'])
  assert got == pytest.approx([lost, row['acc_corr'] / best['acc_corr']])


def test_over_fractions_each_seed_is_its_own_mean():
  run = fakes.drop(
    fakes.results(), method='cf', seed=2, identified_fraction=0.1
  )
  cell = summary.average_fractions(summary.index_rows(run), CF, 'acc_corr')
  for seed in range(3):
    rows = fakes.pick(
      run,
      manipulation='interclass',
      method='cf',
      seed=seed,
      selection='paper',
    )
    mean = np.mean([row['acc_corr'] for row in rows])
    assert cell.values[seed] == pytest.approx(mean)
  assert (cell.expected, cell.missing) == (12, 1)


def test_a_metric_that_does_not_apply_is_neither_missing_nor_a_number():
  cell = summary.get_cell(
    summary.index_rows(fakes.results()), CF, 0.5, 'attack_success_rate'
  )
  assert cell == Cell({}, 3, 0, 0, 0)


def test_fractions_that_differ_by_rounding_are_one():
  run = fakes.results(fractions=(0.30000000000000004, 1.0))
  run['config']['identified_fractions'] = [0.3, 1.0]
  assert summary.index_rows(run).fractions == (0.3, 1.0)


def test_methods_come_in_the_order_of_the_paper_then_the_rest():
  found = study_names.sort_names(
    study_names.CORRECTIVE, ['zeta', 'fine_pruning', 'rewod', 'cuts', 'none']
  )
  assert found == ('none', 'rewod', 'cuts', 'zeta', 'fine_pruning')
  drawn = looks.assign_looks([*looks.PAPER, *(f'm{i}' for i in range(14))])
  assert len(set(drawn.values())) == len(drawn) == 20
  assert looks.assign_looks(['ssd'])['ssd'] == drawn['ssd']
