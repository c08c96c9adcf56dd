"""What is said of a run that forgot classes: words, tables, figures, page."""

import copy
import re

import class_unlearning_case as case
import numpy as np
import pytest

from cmu_jax.core import errors, files
from cmu_jax.report import frame, style
from cmu_jax.studies.classes import figures, report, tables, verdict

RESULTS = case.results()


def test_what_is_told_from_retraining():
  assert verdict.is_detected(RESULTS, 'mask', 'tv')
  assert verdict.is_detected(RESULTS, 'trw', 'tv') is False
  found = verdict.describe(RESULTS)
  assert found.tone == 'good'
  assert found.label == 'Neither MIA-NN nor TV tells trw from retraining'
  text = ' '.join(found.sentences)
  assert 'the nearest to retraining are trw' in text
  assert 'forgets nothing by construction' in text
  assert 'the tilt helps' in text
  assert 'similarity of each image harms' in text
  assert 'Noise of standard deviation 1' in text
  assert re.search(r'with beta 10 by \+(9|10)\.', text)
  assert 'does not even tell' not in text
  assert verdict.LIMITS in text


def test_a_run_in_which_every_method_is_told_apart():
  found = verdict.describe(case.results(far={'trw': 20.0}))
  assert found.label == 'An audit tells every method from retraining'
  assert found.tone == 'flat'
  assert 'the tilt harms' in ' '.join(found.sentences)


def test_an_audit_that_misses_what_was_not_done_is_no_evidence():
  blind = case.results(far={'none': 3.5})
  text = ' '.join(verdict.describe(blind).sentences)
  assert 'MIA-NN does not even tell doing nothing' in text
  assert 'with 30 unseen images' in text


def test_one_class_says_nothing():
  found = verdict.describe(case.results(classes=(1,)))
  assert 'One class' in found.label
  assert found.tone == 'flat'


@pytest.mark.parametrize('change', [{'smoke': True}, {'finished': False}])
def test_what_is_no_evidence_is_not_good(change):
  found = verdict.describe(case.results(**change))
  assert found.tone == 'flat'
  unfinished = 'not finished' in ' '.join(found.sentences)
  assert unfinished == ('finished' in change)


def test_nothing_yet():
  empty = case.results(rows=[], noise=[], tuning=[], ulira=[])
  assert verdict.describe(empty).label == 'No verdict yet'
  assert list(tables.build_tables(empty)) == [
    'classes_forgotten', 'by_class', 'more', 'choices',
  ]  # fmt: skip


def cell(grid, name, column):
  lines = {line[0]: line for line in grid.rows}
  return lines[name][grid.columns.index(column)]


def test_numbers_of_the_main_table():
  grid = tables.main_table(RESULTS)
  rows = tables.rows_of(RESULTS, 'rwft')
  mean = 100 * np.mean([row['tv'] for row in rows])
  std = 100 * np.std([row['tv'] for row in rows], ddof=1)
  assert cell(grid, 'rwft', 'TV') == f'{mean:.2f} ± {std:.2f}'
  assert cell(grid, 'none', 'ACC_f') == '80.00 ± 0.00'
  assert cell(grid, 'mask', 'U-LiRA') == '70.00 ± 0.00'
  floor = 100 * np.mean([r['tv'] for r in tables.rows_of(RESULTS, 'retrain')])
  assert tables.floor_multiple(RESULTS, 'rwft', 'tv') == pytest.approx(
    mean / floor
  )


def test_runs_that_diverged_are_counted_and_left_out():
  some = copy.deepcopy(RESULTS)
  gone = next(row for row in some['rows'] if row['method'] == 'ft')
  gone |= {'diverged': True, 'tv': None}
  assert (
    len(tables.rows_of(some, 'ft')) == len(tables.rows_of(RESULTS, 'ft')) - 1
  )
  assert cell(tables.choice_table(some), 'ft', 'diverged') == '1'


def test_tables_of_noise_tilt_and_classes():
  found = tables.build_tables(RESULTS)
  levels = ['0', '0.1', '1']
  wanted = [(b, s) for b in ('1', '10') for s in levels]
  assert [line[:2] for line in found['noise'].rows] == wanted
  assert [line[0] for line in found['tilt'].rows] == ['1', '10']
  assert found['by_class'].columns == ('method', '1 → 9', '3 → 9', '8 → 9')
  assert cell(found['by_class'], 'mask', '1 → 9').startswith(('29', '30'))


def test_a_page_is_written_whole_from_the_file_alone(tmp_path):
  files.write_json(tmp_path / 'results.json', RESULTS)
  page = frame.show(report.REPORT, tmp_path).read_text()
  assert 'http' not in page
  assert page.count('<img') == 3
  assert 'What an audit can and cannot show' in page
  names = {path.name for path in (tmp_path / 'tables').iterdir()}
  assert names == {f'{name}.md' for name in tables.build_tables(RESULTS)}


def test_figures_of_an_unfinished_run():
  some = case.results(noise=[], rows=RESULTS['rows'][:2])
  with style.context():
    assert figures.draw_noise(some) is None
    assert figures.draw_distances(some, 'x') is None
    assert figures.draw_answers(some) is None


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'task': 'forgetting'}, 'not of task class_unlearning'),
    ({'ulira': None}, "'ulira' is missing"),
    ({'rows': [{'method': 'x'}]}, r'rows\[0\] has no information'),
  ],
)
def test_files_that_cannot_be_shown(tmp_path, change, said):
  files.write_json(tmp_path / 'results.json', RESULTS | change)
  with pytest.raises(errors.UserError, match=said):
    report.REPORT.read(tmp_path)
