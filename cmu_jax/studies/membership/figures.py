"""The figure of an audit."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib import figure

from cmu_jax.report import style
from cmu_jax.report.frame import Results
from cmu_jax.report.style import ReportFigure
from cmu_jax.studies.membership import tables

CAPTIONS = {
  'roc': (
    'True against false positive rate, both logarithmic: what matters is whom '
    'an attack can name while it accuses few falsely. Dashed: chance.'
  )
}


def roc(found: Results, label: str) -> figure.Figure | None:
  """The ROC curves of the forgotten points, of the last attack on a method.

  None without any.
  """
  last: dict[str, Any] = {}
  known = {row['attack'] for row in found['rows']}
  # RMIA is steps of its ratio; where there is U-LiRA it is what was asked for.
  drawn = known & {'U-LiRA'} or known - {'RMIA'}
  for row in found['rows']:
    finer = row['points'] == 'forget' and row['attack'] in drawn
    # Results that were kept for their numbers are without curves.
    if finer and row.get('curve'):
      last[f'{row["method"]}, {tables.attack(row)}'] = row
  if not last:
    return None
  made = style.canvas(label, (7.6, 5.4), found['smoke'])
  ax = made.subplots()
  for (name, row), colour in zip(last.items(), style.COLOURS, strict=False):
    curve = np.array(row['curve'])
    ax.plot(
      curve[:, 0], np.maximum(curve[:, 1], 1e-4), color=colour, label=name
    )
  line = np.geomspace(1e-3, 1, 50)
  ax.plot(line, line, color=style.MUTED, ls=(0, (4, 3)), lw=1)
  style.set_log_axes(ax, 'x', 'y')
  ax.set(
    xlim=(1e-3, 1),
    ylim=(1e-3, 1.05),
    xlabel='false positive rate',
    ylabel='true positive rate',
  )
  ax.legend(loc='lower right', fontsize=8)
  return made


def draw(found: Results, label: str) -> Iterator[ReportFigure]:
  """The figures, one by one.

  Args:
    found: checked contents of results.json.
    label: the finding in one line.
  """
  with style.context():
    yield ReportFigure('roc', roc(found, label))
