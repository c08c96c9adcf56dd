"""Tables and figures show the numbers of the rows, with what is wrong."""

import re

import corrective_fakes as fakes
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from cmu_jax.report import frame, style, text_tables
from cmu_jax.studies.corrective import (
  figures,
  headline,
  scatter,
  summary,
  tables,
)
from cmu_jax.studies.corrective.summary import Cell, Line

POISON, CONFUSED = fakes.PROBLEMS
MANY = (*fakes.PAPER, *(f'method_{i}' for i in range(12)))


def test_table_1_is_in_the_layout_of_the_paper():
  run = fakes.results()
  view = summary.index_rows(run)
  grid = tables.retain_table(view, 'paper')
  assert grid.columns[:3] == ('method', 'poison 600', 'interclass 400')
  order = ['none', 'badt', 'cf', 'ssd', 'scrub', 'rewod']
  assert [row[0] for row in grid.rows] == order
  changes = [
    np.mean(
      [
        100 * (row['acc_retain'] - idle['acc_retain'])
        for row in fakes.pick(
          run, manipulation='poison', method='ssd', seed=seed, selection='paper'
        )
      ]
    )
    for seed in range(3)
    for idle in fakes.pick(
      run, manipulation='poison', method='none', seed=seed, selection='paper'
    )
  ]
  text = f'−{abs(np.mean(changes)):.2f} ± {np.std(changes, ddof=1):.2f}‡'
  assert grid.rows[3][1] == text
  assert 'over 3 seeds' in grid.notes[0] and 'fractions' in grid.notes[0]
  assert re.match(r'9\d\.\d\d ± ', grid.rows[0][1])


def test_table_3_counts_the_chosen_point_and_the_grid():
  run = fakes.results()
  rows = {
    r[0]: r for r in tables.cost_table(summary.index_rows(run), 'paper').rows
  }
  assert rows['ssd'][1:5] == ('1.80', '10.80', '1 800', '10 800')
  assert rows['none'][1:5] == ('0.00', '0.00', '0', '0')
  for row in run['rows']:
    row['grid_seconds'] *= 60
  grid = tables.cost_table(summary.index_rows(run), 'paper')
  assert grid.columns[1] == 'chosen [minutes]'
  assert dict((r[0], r[2]) for r in grid.rows)['ssd'] == '10.80'


def test_flags_stand_beside_the_numbers_with_what_they_mean():
  view = summary.index_rows(fakes.mixed())
  grid = tables.metric_table(view, POISON, 'acc_corr', 'paper')
  rows = {row[0]: row for row in grid.rows}
  assert rows['scrub'][1].endswith('†') and rows['ssd'][1].endswith('‡')
  assert '±' not in rows['scrub'][1]
  assert 'diverged' in grid.notes[-1] and 'collapsed' in grid.notes[-1]
  gone = tables.metric_table(view, CONFUSED, 'acc_corr', 'paper')
  assert gone.rows[-1][0] == 'rewod' and gone.rows[-1][1].endswith('*')
  assert {row[-1] for row in grid.rows} == {'S_f + S_r'}
  alphas = {row[0]: row for row in tables.alpha_table(view, 'paper').rows}
  assert alphas['cf'][2] == 'incomplete (1, incomplete)'
  assert alphas['ssd'][1] == '0.1'


def test_all_seeds_diverged_is_no_number():
  run = fakes.diverge(fakes.results(), method='cf', manipulation='poison')
  grid = tables.metric_table(
    summary.index_rows(run), POISON, 'acc_corr', 'oracle'
  )
  assert grid.rows[2][:2] == ('cf', 'diverged†')
  assert grid.title.endswith('(selection: oracle)')


def test_hyperparameters_are_given_for_each_seed_where_they_differ():
  run = fakes.results(seeds=2)
  at = {'manipulation': 'poison', 'method': 'ssd', 'seed': 1}
  for row in fakes.pick(run, identified_fraction=0.1, **at):
    row['hyper'] = {'alpha': 1e6, 'gamma': 0.5}
  rows = tables.hyper_table(summary.index_rows(run), POISON, 'paper').rows
  assert rows[3][1:3] == (
    'alpha=1 gamma=0.1; alpha=1e+06 gamma=0.5',
    'alpha=1 gamma=0.1',
  )
  assert rows[2][1] == text_tables.DASH


def test_latex_prints_names_as_they_are():
  run = fakes.results(methods=('scrub_original', 'a&b%c$#{x}~^\\', 'rewod'))
  text = tables.format_files(run)['table1_retain.tex']
  assert r'{}scrub\_original & ' in text
  assert r'a\&b\%c\$\#\{x\}\textasciitilde{}\textasciicircum{}' in text
  for line in text.splitlines():
    if line.endswith(r'\\') or line.startswith(r'\caption'):
      assert not re.search(r'(?<!\\)[_#%]', line)
  assert set(text) <= set(map(chr, range(128)))
  assert text.count(r'\begin{tabular}') == text.count(r'\end{table}') == 2


def test_markdown_rows_are_as_wide_as_their_head():
  run = fakes.results(methods=('a|b_c', 'rewod'), smoke=True, finished=False)
  for name, text in tables.format_files(run).items():
    if name.endswith('.md'):
      rows = [r for r in text.splitlines() if r.startswith('|')]
      widths = {len(re.findall(r'(?<!\\)\|', row)) for row in rows}
      assert len(widths) == 1
      assert '**smoke: not evidence**' in text and 'not finished' in text


def test_curves_show_means_intervals_and_levels():
  run = fakes.mixed()
  made = figures.draw_curves(run, ('ssd', 'scrub'), 'a finding')
  view = summary.index_rows(run)
  ax = made.axes[0]
  drawn = {line.get_label(): line for line in ax.get_lines()}
  bar = headline.find_bar(view, POISON)
  assert drawn['0.9 U*'].get_ydata()[0] == pytest.approx(bar)
  crosses = [line for line in ax.get_lines() if line.get_marker() == 'x']
  assert len(crosses) == len(fakes.FRACTIONS)
  error = next(c for c in ax.containers if c.get_label() == 'ssd')
  line = Line(POISON, 'ssd', 'paper')
  means = [
    summary.get_cell(view, line, f, 'acc_corr').mean for f in view.fractions
  ]
  np.testing.assert_allclose(
    np.asarray(error.lines[0].get_ydata(), float), means
  )
  assert made.get_suptitle() == 'a finding'


def test_many_methods_are_drawn_a_few_at_a_time():
  run = fakes.results(seeds=1, methods=MANY, fractions=(1.0,))
  names = figures.list_names(run)
  assert [n for n in names if n.startswith('curves')] == [
    'curves_paper',
    *(f'curves_others_{i}' for i in (1, 2, 3)),
  ]
  assert all(frame.find_caption(figures.CAPTIONS, name) for name in names)


def test_a_sweep_without_acc_retain_is_drawn():
  run = fakes.results(seeds=1, problems=(CONFUSED,))
  for row in (*run['rows'], *run['points']):
    row['acc_retain'] = None
  assert figures.list_names(run) == ('curves_paper', 'importance', 'cost')
  made = figures.draw_curves(run, ('ssd',), 'all classes are affected')
  assert style.png(made).startswith(b'\x89PNG')


def test_the_scatter_has_every_point_of_every_grid():
  run = fakes.results(seeds=2)
  assert scatter.find_tuned(run, POISON) == ('ssd', 'scrub')
  ax = scatter.draw_utility(run, POISON).axes[0]
  dots = [line for line in ax.get_lines() if line.get_markersize() == 4.5]
  assert sum(len(line.get_xdata()) for line in dots) == 2 * 4 * 6
  rings = [line for line in ax.get_lines() if line.get_markersize() == 7]
  assert len(rings[0].get_xdata()) == 2 * 4


@hypothesis.given(
  st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.001, 0.2)
)
def test_labels_keep_their_order_and_their_distance(wanted, gap):
  found = scatter._space_apart(wanted, gap, 0.0, 1.0)
  least = min(gap, 1 / max(len(wanted) - 1, 1))
  order = np.argsort(wanted, kind='stable')
  assert (np.diff(found[order]) >= least - 1e-9).all()
  assert found.min() >= -1e-9 and found.max() <= 1 + 1e-9


def test_labels_that_are_far_apart_stay():
  found = scatter._space_apart([0.9, 0.1, 0.5], 0.05, 0.0, 1.0)
  np.testing.assert_allclose(found, [0.9, 0.1, 0.5])


def test_numbers_as_texts():
  cell = Cell({0: 0.9, 1: 0.92}, 3, 1, 0, 0)
  assert tables.format_interval(cell) == '0.910 ± 0.127*'
  assert tables.format_spread(cell, absolute=True) == '91.00 ± 1.41*'
  assert tables.format_spread(Cell({0: -8.94}, 1, 0, 0, 1), False) == '−8.94‡'
  assert tables.format_count(1234567.0) == '1 234 567'
  assert text_tables.time_text(90.0, minutes=True) == '1.50'
  assert text_tables.markdown_text('a_b|<x>') == 'a\\_b\\|&lt;x>'
