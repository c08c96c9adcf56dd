"""The figures of a run: what gaps are made of, and what attacks see."""

from collections.abc import Iterator

import numpy as np
from matplotlib import figure

from cmu_jax.report import style
from cmu_jax.report.frame import Results
from cmu_jax.report.style import ReportFigure
from cmu_jax.studies.engine import gaps as gaps_lib
from cmu_jax.studies.subsets import load, tables

_PARTS = ('UA', 'RA', 'TA', 'attack')
CAPTIONS = {
  'gaps': (
    'How far each method is from retraining, mean of the gaps of single runs, '
    'and what that is made of. Retraining itself differs from run to run.'
  ),
  'attacks': (
    'How well the attack of the gap tells forgotten from test images: a dot '
    'a run, a bar the mean. Right of the band more than after retraining '
    'is left; left of it more is gone, which tells them apart as well.'
  ),
  'requests': (
    'How much more the attack tells retained from forgotten images than '
    'forgotten from test images, at each of several requests; means over runs.'
  ),
}


def _axes(title: str, rows: int, smoke: bool):
  made = style.canvas(title, (9.0, 1.6 + 0.32 * rows), smoke)
  return made, made.subplots()


def _names(ax, methods: list[str]) -> None:
  ax.set_yticks(range(len(methods)), methods)
  ax.invert_yaxis()
  ax.grid(axis='y', visible=False)


def gaps(found: Results, label: str) -> figure.Figure | None:
  """Stacked parts of the gap by method; None without any."""
  known = {m: tables.gap(found, m) for m in found['methods']}
  parts = {m: one.parts for m, one in known.items() if one is not None}
  if not parts:
    return None
  made, ax = _axes(label, len(parts), found['smoke'])
  table = np.array(list(parts.values())) / 4
  left = np.zeros(len(parts))
  for i, name in enumerate(_PARTS):
    ax.barh(
      range(len(parts)),
      table[:, i],
      left=left,
      color=style.COLOURS[i],
      label=name,
    )
    left += table[:, i]
  _names(ax, list(parts))
  ax.set_xlabel('gap to retraining [points]')
  ax.legend(loc='upper center', bbox_to_anchor=(0.5, -0.14), ncols=4)
  return made


def attacks(found: Results) -> figure.Figure | None:
  """The attack of the gap on every run by method; None without any."""
  name = found['config']['attack']
  column = gaps_lib.ATTACKS[name]
  values = {
    m: [100 * r[column] for r in load.rows(found, m) if r.get(column)]
    for m in found['methods']
  }
  values = {m: some for m, some in values.items() if some}
  best = values.get('retrain')
  if not best:
    return None
  title = 'What is left of the forgotten images, as the attack shows it'
  made, ax = _axes(title, len(values), found['smoke'])
  ax.axvspan(min(best), max(best), color=style.FAINT, label='retrain')
  for i, some in enumerate(values.values()):
    ax.plot(some, np.full(len(some), i), 'o', color=style.COLOURS[0], alpha=0.5)
    mean = float(np.mean(some))
    ax.plot([mean, mean], [i - 0.3, i + 0.3], color=style.INK, lw=2)
  _names(ax, list(values))
  ax.set_xlabel(f'{tables.ATTACKS[name]} [points]')
  ax.legend(loc='upper center', bbox_to_anchor=(0.5, -0.14))
  return made


def in_turn(found: Results) -> figure.Figure | None:
  """FR minus FT AUC by request; None without requests."""
  methods = list(dict.fromkeys(row['method'] for row in found['requests']))
  if not methods:
    return None
  title = 'Requests one after another'
  made = style.canvas(title, (7.0, 4.0), found['smoke'])
  ax = made.subplots()
  for i, method in enumerate(methods):
    values = tables.by_request(found, method)
    means = [float(np.mean(one)) for one in values.values()]
    ax.plot(list(values), means, 'o-', color=style.COLOURS[i], label=method)
  ax.set_xticks(sorted({row['request'] for row in found['requests']}))
  ax.set_xlabel('request')
  ax.set_ylabel('FR AUC − FT AUC [points]')
  ax.legend()
  return made


def draw(found: Results, label: str) -> Iterator[ReportFigure]:
  """The figures one by one.

  Args:
    found: checked contents of results.json, of an unfinished run too.
    label: the verdict.
  """
  with style.context():
    for name, made in (
      ('gaps', gaps(found, label)),
      ('attacks', attacks(found)),
      ('requests', in_turn(found)),
    ):
      yield ReportFigure(name, made)
