"""The figure of a run on negation."""

from collections.abc import Iterator

import numpy as np
from matplotlib import figure

from cmu_jax.report import style
from cmu_jax.report.frame import Results
from cmu_jax.report.style import ReportFigure
from cmu_jax.studies.negation import tables

CAPTIONS = {
  'strengths': (
    'Lines: the forget set; dashes: the control set; grey: its floor.'
  )
}


def strengths(results: Results) -> figure.Figure | None:
  """Forget and control accuracy by strength, a panel a forget set.

  None without any.
  """
  if not results['curves']:
    return None
  names = list(dict.fromkeys(c['forget_set'] for c in results['curves']))
  made = style.canvas(
    'Validation accuracy by strength',
    (3.2 * max(2, len(names)), 3.4),
    results['smoke'],
  )
  for ax, name in zip(
    np.ravel(made.subplots(1, len(names), squeeze=False)), names, strict=True
  ):
    for curve in (c for c in results['curves'] if c['forget_set'] == name):
      at = list(tables.NAMES).index(curve['method'])
      colour = style.COLOURS[at]
      ax.plot(curve['strength'], curve['forget_accuracy'], color=colour)
      ax.plot(curve['strength'], curve['control_accuracy'], '--', color=colour)
      ax.axhline(curve['threshold'], color='grey', lw=0.8)
    ax.set_title(name)
    ax.set_xlabel('strength')
    ax.set_ylim(-0.02, 1.02)
  return made


def draw(results: Results, label: str) -> Iterator[ReportFigure]:
  """The figures, one by one; the label of the verdict is not on them."""
  del label
  with style.context():
    yield ReportFigure('strengths', strengths(results))
