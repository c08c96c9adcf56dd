"""Figures show the numbers of a run, gaps included, for any class count."""

import copy
import io

import matplotlib
import numpy as np
import pytest
import report_fakes
from PIL import Image

from cmu_jax.report import style
from cmu_jax.studies.cuts import curves, maps, report


@pytest.mark.parametrize('classes', [2, 100])
def test_figures_for_few_and_many_classes(classes):
  run = report_fakes.results(seeds=2, classes=classes)
  found = report_fakes.arrays(classes, seeds=2)
  found['confusion_cuts'][:, 1] = 0  # a class without test images
  for made in (
    maps.draw_confusions(run, found),
    maps.draw_feature_path(run, found),
  ):
    with Image.open(io.BytesIO(style.png(made))) as image:
      assert min(image.size) > 900


def test_cells_are_shares_of_the_true_class():
  counts = np.array([[[3, 1], [0, 0]], [[3, 1], [0, 0]]])
  np.testing.assert_array_equal(
    maps._rates(counts), [[0.75, 0.25], [np.nan, np.nan]]
  )


def test_scores_of_fewer_than_two_classes_are_gaps():
  found = curves._floats([0.5, -1000001.0, None, -0.5])
  np.testing.assert_array_equal(found, [0.5, np.nan, np.nan, -0.5])
  run = report_fakes.results()
  top = curves.draw_alpha_curve(run).axes[0]
  low, _ = top.get_ylim()
  assert low > -5
  drawn = next(x for x in top.get_lines() if x.get_label() == 'score J')
  assert np.isnan(np.asarray(drawn.get_ydata(), float)).any()


def test_the_bold_line_is_the_mean_over_seeds():
  run = report_fakes.results()
  # One search stopped early: the mean ends where the shortest curve does.
  for key in ('alpha', 'J', 'self_agreement', 'adjusted_agreement'):
    run['curves'][0][key] = run['curves'][0][key][:30]
  for key in ('penalty_effective', 'penalty_coverage'):
    run['curves'][0][key] = run['curves'][0][key][:30]
  top = curves.draw_alpha_curve(run).axes[0]
  drawn = next(x for x in top.get_lines() if x.get_label() == 'score J')
  expected = np.mean([c['J'][:30] for c in run['curves']], axis=0)
  np.testing.assert_allclose(drawn.get_ydata(), expected)


def test_chosen_alpha_is_marked_only_where_one_was_chosen():
  def uprights(**kind):
    bottom = curves.draw_alpha_curve(
      report_fakes.results('poison', **kind)
    ).axes[1]
    return sum(
      len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
      for line in bottom.get_lines()
    )

  assert uprights() == 3 and uprights(selected=False) == 0


def test_a_curve_may_lack_everything_but_the_search():
  run = report_fakes.results(seeds=2)
  for curve in run['curves']:
    curve['evaluated'] = None
    curve['adjusted_agreement'] = None
  assert 'chose alpha' in curves.draw_alpha_curve(run).get_suptitle()


@pytest.mark.parametrize('smoke', [True, False])
def test_figures_of_smoke_runs_say_so_on_their_own(smoke):
  run = report_fakes.results(seeds=1, smoke=smoke)
  run['arrays'] = report_fakes.arrays(seeds=1)
  for drawn in report.draw_figures(run, ''):
    assert ('not evidence' in drawn.figure.get_suptitle()) == smoke


def test_drawing_leaves_global_settings_alone():
  before = copy.deepcopy(dict(matplotlib.rcParams))
  run = report_fakes.results(seeds=2)
  run['arrays'] = report_fakes.arrays(seeds=2)
  list(report.draw_figures(run, ''))
  assert dict(matplotlib.rcParams) == before
