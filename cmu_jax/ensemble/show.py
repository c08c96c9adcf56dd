"""Everything a person looks at after a run on ensembles, off results.json."""

import operator
import os
import pathlib
from typing import Any

import numpy as np
from matplotlib import figure

from cmu_jax import errors, files
from cmu_jax.ensemble import tables
from cmu_jax.ensemble.tables import Results, Table
from cmu_jax.report import page, style
from cmu_jax.report import template as frame

_PANELS = ('t_rate', 'joint_failure_rate', 'black_box_accuracy')
_CAPTIONS = {
  'transfer': (
    'A dot is a seed, a line the mean. Lower T_rate and joint failure are '
    'better; higher black-box accuracy is.'
  ),
  'penalty': (
    'Mean of every epoch; a thin line is a seed. The penalty of LOTOS must '
    'not lie at 0: then it does nothing.'
  ),
}
_GLOSSARY = {
  'T_rate': (
    'Of images that two members have right, and on which an attack on the '
    'first works: the share on which the same adversarial image fools the '
    'second. It is of other images for every ensemble.'
  ),
  'joint failure': (
    'Share of all images on which both members of a pair are wrong after the '
    'attack on the first.'
  ),
  'black-box robust accuracy': (
    'Accuracy on adversarial images of a network that was trained apart.'
  ),
  'as released': (
    'The published attack perturbs normalised images and clips them to [0, 1]. '
    'That alone changes every pixel darker than the mean: see "accuracy '
    'without attack".'
  ),
  'clipped': 'Every layer has a spectral norm of at most clip.bound.',
}


def load(workdir: pathlib.Path) -> Results:
  """The contents of results.json.

  Raises:
    UserError: it is missing, broken, or not of a run on ensembles.
  """
  path = workdir / 'results.json'
  found: Any = files.read_json(path)
  errors.check(
    isinstance(found, dict)
    and found.get('task') == 'ensemble'
    and isinstance(found.get('rows'), list),
    f'{path} is not of a run on ensembles: give its work folder',
  )
  return found


def _transfer(results: Results) -> figure.Figure:
  """Rates by method, a panel each, for the first threat model."""
  threat, names = tables.threats(results)[0], tables.methods(results)
  made = style.canvas(_heading(results), (9.6, 3.6), results['smoke'])
  for ax, key in zip(made.subplots(1, 3), _PANELS, strict=True):
    for at, method in enumerate(names):
      found = list(tables.values(results, threat, method, key).values())
      if not found:
        continue
      colour = style.COLOURS[at]
      ax.plot([at] * len(found), found, 'o', color=colour, alpha=0.7)
      mean = float(np.mean(found))
      ax.plot([at - 0.3, at + 0.3], [mean, mean], color=colour, lw=2.4)
    ax.set_xticks(range(len(names)), [tables.NAMES[m] for m in names])
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.set_ylim(-0.02, 1.02)
    ax.set_title(tables.METRICS[key][0])
  return made


def _penalty(results: Results) -> figure.Figure | None:
  """The penalty and cross-entropy of LOTOS by epoch; None without it."""
  curves = [c for c in results['curves'] if c['method'] == 'lotos']
  if not curves:
    return None
  idle = sum(value == 0 for c in curves for value in c['penalty'])
  said = 'The penalty acts in every epoch'
  title = said if not idle else f'The penalty is idle in {idle} epochs'
  made = style.canvas(title, (9.6, 3.2), results['smoke'])
  for ax, key in zip(
    made.subplots(1, 2), ('penalty', 'cross_entropy'), strict=True
  ):
    x = [list(range(1, len(c[key]) + 1)) for c in curves]
    y = [c[key] for c in curves]
    style.across_seeds(ax, x, y, 'mean', style.CUTS)
    ax.set_title(key.replace('_', '-'))
    ax.set_xlabel('epoch')
  return made


def _heading(results: Results) -> str:
  """What the penalty did to the transfer rate, in words."""
  first = tables.threats(results)[0] if results['rows'] else ''
  found = tables.change(results, first, 't_rate', 'clipped', 'lotos')
  if found is None:
    return 'Transfer of adversarial images between members'
  word = 'lower' if found.mean < 0 else 'higher'
  sure = found.low is not None and found.high is not None
  clear = sure and (found.low > 0 or found.high < 0)  # type: ignore[operator]
  rest = '' if clear else '; the interval over seeds holds 0'
  return (
    f'T_rate with LOTOS is {abs(100 * found.mean):.1f} points {word} than with '
    f'clipping alone{rest}'
  )


def _sentences(results: Results) -> list[str]:
  """The verdict: transfer, and what it costs."""
  if not results['rows']:
    return ['No cell is done yet.']
  said = [
    'Less transfer is not more robustness: compare the joint failure and the '
    'black-box accuracy, which are over the same images for all ensembles.'
  ]
  threat = tables.threats(results)[0]
  for before, after in (('clipped', 'lotos'), ('plain', 'lotos')):
    parts = [
      f'{tables.METRICS[key][0]} {tables.signed(found)}'
      for key in ('test_accuracy', 'joint_failure_rate', 'black_box_accuracy')
      if (found := tables.change(results, threat, key, before, after))
    ]
    if parts:
      name = tables.NAMES[before]
      said.append(f'LOTOS against {name}: {", ".join(parts)}.')
  if not results['finished']:
    said.append('The run is not finished: more cells are to come.')
  return said


def _html(table: Table) -> str:
  head = [('number' if i else '', name) for i, name in enumerate(table.head)]
  rows = [
    '<tr>'
    + ''.join(
      f'<td class="{"number" if i else ""}">{page.escape(text)}</td>'
      for i, text in enumerate(row)
    )
    + '</tr>'
    for row in table.rows
  ]
  return (
    f'<h3>{page.escape(table.title)}</h3>{page.table(head, rows)}'
    f'<p class="soft">{page.escape(table.note)}</p>'
  )


def _drawn(results: Results) -> dict[str, bytes]:
  if not results['rows']:
    return {}
  with style.settings():
    made = {'transfer': _transfer(results), 'penalty': _penalty(results)}
    return {name: style.png(one) for name, one in made.items() if one}


def render(results: Results, drawn: dict[str, bytes]) -> str:
  """The whole page as HTML that needs nothing else.

  Args:
    results: contents of results.json.
    drawn: figures by name.
  """
  smoke = 'Smoke run: every stage runs, nothing is evidence.'
  terms = ''.join(
    f'<dt>{page.escape(term)}</dt><dd>{page.escape(text)}</dd>'
    for term, text in _GLOSSARY.items()
  )
  seeds = sorted({row['seed'] for row in results['rows']})
  return frame.fill(
    name=page.escape(results['name']),
    label='ensembles',
    banner=f'<div class="smoke" role="alert">{smoke}</div>'
    if results['smoke']
    else '',
    tone='flat',
    heading=page.escape(_heading(results)),
    sentences=page.paragraphs(_sentences(results)),
    sections={
      'Tables': ''.join(map(_html, tables.all_of(results))),
      'Figures': '\n'.join(
        page.picture(png, name, _CAPTIONS[name]) for name, png in drawn.items()
      ),
      'How to read this': f'<dl>{terms}</dl>',
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

  Raises:
    UserError: results.json is missing, broken or of another task, or the
      folder cannot be written.
  """
  workdir = pathlib.Path(workdir)
  results = load(workdir)
  text = '\n'.join(map(tables.markdown, tables.all_of(results)))
  files.write_text(workdir / 'tables' / 'summary.md', text)
  drawn = _drawn(results)
  for name, png in drawn.items():
    path = workdir / 'figures' / f'{name}.png'
    files.write(path, operator.methodcaller('write', png))
  html = workdir / 'report.html'
  files.write_text(html, render(results, drawn))
  return html
