"""Everything a person looks at after a run on negation, off results.json."""

import operator
import os
import pathlib
from typing import Any

import numpy as np
from matplotlib import figure

from cmu_jax import errors, files
from cmu_jax.report import page, style
from cmu_jax.report import template as frame

Results = dict[str, Any]
_NAMES = {
  'task_vector': 'a task vector',
  'uniform': 'their mean',
  'negmerge': 'NegMerge',
}
_HEAD = (
  'forget set',
  'vector',
  'strength',
  'fine-tuned',
  'before',
  'forget accuracy',
  'control before',
  'control accuracy',
)
_NOTE = (
  'Test accuracies; a task vector is the mean over seeds. The strength is the '
  'one of lowest accuracy on validation images of the forget set among those '
  'that keep the share config.floor of the control accuracy; 0 where none does.'
)


def load(workdir: pathlib.Path) -> Results:
  """The contents of results.json.

  Raises:
    UserError: it is missing, broken, or not of a run on negation.
  """
  path = workdir / 'results.json'
  found: Any = files.read_json(path)
  errors.check(
    isinstance(found, dict) and found.get('task') == 'negation',
    f'{path} is not of a run on negation: give its work folder',
  )
  return found


def means(results: Results) -> list[tuple[str, str, dict[str, float]]]:
  """Forget set, method and the mean of every number, over seeds."""
  groups: dict[tuple[str, str], list] = {}
  for row in results['rows']:
    groups.setdefault((row['forget_set'], row['method']), []).append(row)
  keys = (
    'strength',
    'tuned_accuracy',
    'forget_accuracy_before',
    'forget_accuracy',
    'control_accuracy_before',
    'control_accuracy',
  )
  return [
    (*names, {key: float(np.mean([r[key] for r in rows])) for key in keys})
    for names, rows in groups.items()
  ]


def table(results: Results) -> list[tuple[str, ...]]:
  """A row for each forget set and method, then the averages over sets."""
  found, rows = means(results), []
  for name, method, values in found:
    cells = (f'{value:.3f}' for value in values.values())
    rows.append((name, _NAMES[method], *cells))
  for method in dict.fromkeys(method for _, method, _ in found):
    of_it = [values for _, other, values in found if other == method]
    if len(of_it) > 1:
      cells = (f'{np.mean([v[k] for v in of_it]):.3f}' for k in of_it[0])
      rows.append((f'mean of {len(of_it)}', _NAMES[method], *cells))
  return rows


def verdict(results: Results) -> str:
  """The outcome in one sentence."""
  found = means(results)
  if not found:
    return 'No cell is done yet'
  order = {}
  for method in dict.fromkeys(method for _, method, _ in found):
    of_it = [v['forget_accuracy'] for _, m, v in found if m == method]
    order[method] = float(np.mean(of_it))
  best = min(order, key=lambda method: order[method])
  before = np.mean([v['forget_accuracy_before'] for _, _, v in found])
  kept = np.mean(
    [v['control_accuracy'] for _, m, v in found if m == best]
  ) / np.mean([v['control_accuracy_before'] for _, _, v in found])
  return (
    f'Subtracting {_NAMES[best]} takes the accuracy on what is to be forgotten '
    f'from {before:.1%} to {order[best]:.1%}; the control set keeps {kept:.1%} '
    'of its accuracy'
  )


def _curves(results: Results) -> figure.Figure:
  """Forget and control accuracy by strength, a panel a forget set."""
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
      at = list(_NAMES).index(curve['method'])
      colour = style.COLOURS[at]
      ax.plot(curve['strength'], curve['forget_accuracy'], color=colour)
      ax.plot(curve['strength'], curve['control_accuracy'], '--', color=colour)
      ax.axhline(curve['threshold'], color='grey', lw=0.8)
    ax.set_title(name)
    ax.set_xlabel('strength')
    ax.set_ylim(-0.02, 1.02)
  return made


def _html(results: Results) -> str:
  head = [('number' if i > 1 else '', name) for i, name in enumerate(_HEAD)]
  rows = [
    '<tr>'
    + ''.join(
      f'<td class="{"number" if i > 1 else ""}">{page.escape(text)}</td>'
      for i, text in enumerate(row)
    )
    + '</tr>'
    for row in table(results)
  ]
  return f'{page.table(head, rows)}<p class="soft">{page.escape(_NOTE)}</p>'


def render(results: Results, png: bytes | None) -> str:
  """The whole page as HTML that needs nothing else."""
  smoke = 'Smoke run: a small CLIP trained here, nothing is evidence.'
  caption = 'Lines: the forget set; dashes: the control set; grey: its floor.'
  said = [
    f'The control set is {results["control"]}. Strengths are chosen on '
    'validation images alone.'
  ]
  if not results['finished']:
    said.append('The run is not finished: more cells are to come.')
  seeds = sorted({r['seed'] for r in results['rows'] if r['seed'] is not None})
  return frame.fill(
    name=page.escape(results['name']),
    label='negation',
    banner=f'<div class="smoke" role="alert">{smoke}</div>'
    if results['smoke']
    else '',
    tone='flat',
    heading=page.escape(verdict(results)),
    sentences=page.paragraphs(said),
    sections={
      'Tables': _html(results),
      'Figures': page.picture(png, 'strengths', caption) if png else '',
      'How to get the same numbers': page.reproduce(
        results['provenance'], results['config'], seeds
      ),
    },
  )


def show(workdir: os.PathLike | str) -> pathlib.Path:
  """Writes tables/, figures/ and report.html, each file whole.

  Args:
    workdir: of a run, with results.json.

  Returns:
    The path of report.html.
  """
  workdir = pathlib.Path(workdir)
  results = load(workdir)
  lines = [_HEAD, ('---',) * len(_HEAD), *table(results)]
  text = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
  files.write_text(
    workdir / 'tables' / 'summary.md',
    f'{verdict(results)}.\n\n{text}\n\n{_NOTE}\n',
  )
  png = None
  if results['curves']:
    with style.settings():
      png = style.png(_curves(results))
    path = workdir / 'figures' / 'strengths.png'
    files.write(path, operator.methodcaller('write', png))
  html = workdir / 'report.html'
  files.write_text(html, render(results, png))
  return html
