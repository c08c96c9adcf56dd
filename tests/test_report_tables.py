"""Tables compare every method honestly, on paper and in a terminal."""

import io
import re

import numpy as np
import pytest
import report_fakes

from cmu_jax.report import text_tables
from cmu_jax.studies.cuts import tables


def test_summary_has_mean_and_spread_in_the_fixed_order():
  run = report_fakes.results()
  rows = {row.method: row for row in tables.summarize_methods(run)}
  assert list(rows) == [
    'corrupted',
    'cuts',
    'cuts_best_alpha',
    'random_vector',
    'random_vector_uniform',
    'finetune_clean_proxy',
    'spectral_clip',
    'oracle',
  ]
  values = [r['test_accuracy'] for r in run['rows'] if r['method'] == 'cuts']
  spread = rows['cuts'].metrics['test_accuracy']
  np.testing.assert_allclose(
    spread[:2], (np.mean(values), np.std(values, ddof=1))
  )
  assert spread.n == rows['cuts'].seeds == 3
  assert rows['cuts_best_alpha'].note == 'diagnostic: uses test labels'
  assert 'clean labels' in rows['finetune_clean_proxy'].note
  assert 'attack_success_rate' not in rows['cuts'].metrics


def test_recovery_is_shown_only_where_it_means_something():
  assert 'recovery_percent' in tables.select_columns(report_fakes.results())
  run = report_fakes.results('poison')
  for row in run['rows']:
    row['recovery_percent'] = 2100.0
  assert tables.select_columns(run) == [
    'test_accuracy',
    'attack_success_rate',
    'target_class_accuracy',
  ]
  assert '2100' not in text_tables.markdown(tables.methods_table(run))


@pytest.mark.parametrize(('below', 'count'), [(1, 2), (3, None)])
def test_recovery_is_a_dash_where_the_oracle_is_below(below, count):
  """Results of any age: they may hold a recovery that means nothing."""
  run = report_fakes.results()
  for row in run['rows']:
    if row['seed'] < below:
      row['recovery_percent'] = -166.7
      if row['method'] == 'oracle':
        row['test_accuracy'] = 0.2
  rows = {row.method: row for row in tables.summarize_methods(run)}
  spread = rows['cuts'].metrics.get('recovery_percent')
  assert (spread and spread.n) == count
  texts = text_tables.markdown(tables.methods_table(run))
  assert '166' not in texts
  if count is None:
    head, line = (
      next(text.split(' | ') for text in texts.splitlines() if name in text)
      for name in ('recovery', '| CUTS |')
    )
    assert line[head.index(r'recovery \[%\]')] == '–'


def test_the_best_alpha_claims_test_labels_only_where_it_used_them():
  notes = []
  for task in ('label_noise', 'poison'):
    run = report_fakes.results(task)
    run['rows'] += [report_fakes.row('cuts_best_alpha', 0, 0.9)]
    rows = {row.method: row for row in tables.summarize_methods(run)}
    notes.append(rows['cuts_best_alpha'].note)
  assert notes == ['diagnostic: uses test labels', 'diagnostic']


def test_one_seed_shows_no_spread():
  run = report_fakes.results(seeds=1)
  out = io.StringIO()
  tables.console(run, out)
  assert '±' not in out.getvalue() + text_tables.markdown(
    tables.methods_table(run)
  )
  assert 'One seed' in out.getvalue()


@pytest.mark.parametrize('task', ['label_noise', 'poison'])
@pytest.mark.parametrize('selected', [True, False])
def test_console_fits_and_says_what_each_method_saw(task, selected):
  run = report_fakes.results(task, selected=selected)
  out = io.StringIO()
  tables.console(run, out)
  lines = out.getvalue().splitlines()
  assert max(map(len, lines)) <= 100
  assert '\x1b' not in out.getvalue()
  text = ' '.join(out.getvalue().split())
  for row in run['rows']:
    assert row['information'] in text
  abstains = task == 'poison' and not selected
  assert ('abstained 3/3' in text) == abstains


def test_a_class_without_test_images_is_a_dash():
  run = report_fakes.results(seeds=2)
  for row in run['per_class']:
    row['accuracy'][3] = None
  line = next(
    line
    for line in text_tables.markdown(tables.class_table(run)).splitlines()
    if line[:4] == '| 3 '
  )
  assert set(re.split(r'\s*\|\s*', line.strip('| '))) == {'3', '–'}
