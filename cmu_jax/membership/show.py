"""Everything a person looks at after an audit, from its results.json alone."""

import operator
import os
import pathlib
from typing import Any

import numpy as np
from matplotlib import figure

from cmu_jax import errors, files
from cmu_jax.corrective import page as benchmark
from cmu_jax.membership import tables, verdict
from cmu_jax.report import page, style, template

Results = dict[str, Any]

SCHEMA = 1
_CAPTION = (
  'True against false positive rate, both logarithmic: what matters is whom an '
  'attack can name while it accuses few falsely. Dashed: chance.'
)
_GLOSSARY = {
  'D, D_F, D_R': "A network's training set, half of all images, drawn at "
  'random; the random part of it that it is to forget; the rest.',
  'RMIA': "Is a point's probability raised more than that of other points, "
  'beside reference networks (arXiv 2312.03262)?',
  'LiRA': 'Is it more like networks trained with the point or without it '
  '(arXiv 2112.03570)?',
  'U-LiRA': 'Is it more like networks that forgot the point or that never saw '
  'it, each network held out in turn (arXiv 2403.01218)?',
  'adaptive': 'The references were unlearned with the audited method too: the '
  'attacker knows the method.',
}


def _load(workdir: pathlib.Path) -> Results:
  path = workdir / 'results.json'
  found = files.read_json(path)
  errors.check(
    isinstance(found, dict)
    and (found.get('task'), found.get('schema')) == ('membership', SCHEMA)
    and found.get('rows'),
    f'{path} is not of task membership, schema {SCHEMA}; run again',
  )
  return found


def curves(found: Results) -> figure.Figure:
  """The ROC curves of the forgotten points, of the last attack on a method."""
  said = verdict.verdict(found)
  last: dict[str, Any] = {}
  for row in found['rows']:
    if row['points'] == 'forget' and row['attack'] != 'RMIA':
      last[f'{row["method"]}, {tables.attack(row)}'] = row
  with style.settings():
    made = style.canvas(said.label, (7.6, 5.4), found['smoke'])
    ax = made.subplots()
    for (name, row), colour in zip(last.items(), style.COLOURS, strict=False):
      curve = np.array(row['curve'])
      ax.plot(
        curve[:, 0], np.maximum(curve[:, 1], 1e-4), color=colour, label=name
      )
    line = np.geomspace(1e-3, 1, 50)
    ax.plot(line, line, color=style.MUTED, ls=(0, (4, 3)), lw=1)
    style.logarithmic(ax, 'x', 'y')
    ax.set(
      xlim=(1e-3, 1),
      ylim=(1e-3, 1.05),
      xlabel='false positive rate',
      ylabel='true positive rate',
    )
    ax.legend(loc='lower right', fontsize=8)
    return made


def _page(found: Results, png: bytes) -> str:
  said = verdict.verdict(found)
  warning = '<div class="smoke" role="alert">smoke: not evidence</div>'
  terms = ''.join(
    f'<dt>{page.escape(term)}</dt><dd>{page.escape(text)}</dd>'
    for term, text in _GLOSSARY.items()
  )
  config = found['config']
  setting = (
    f'{found["pool_size"]} images of {config["dataset"]}; every network is '
    f'trained on half of them and forgets {config["fraction"]:.0%} of those. '
    f'{config["references"]} networks were trained to compare with. The '
    f'network is {config["model"]["name"]}.'
  )
  return template.fill(
    name=page.escape(found['name']),
    label=page.escape(said.label),
    banner=warning if found['smoke'] else '',
    tone='flat' if found['smoke'] else said.tone,
    heading=page.escape(said.label),
    sentences=page.paragraphs(said.sentences),
    sections={
      'Tables': ''.join(map(benchmark.grid, tables.contents(found).values())),
      'Curves': page.picture(png, 'ROC', _CAPTION),
      'What was audited': page.paragraphs([setting]),
      'How to read this': f'<dl>{terms}</dl>',
      'How to get the same numbers': page.reproduce(
        found['provenance'], config, list(config['seeds'])
      ),
    },
  )


def show(workdir: os.PathLike | str) -> pathlib.Path:
  """Writes tables/, figures/ and report.html, each file whole.

  Args:
    workdir: the work folder of an audit, with results.json.

  Returns:
    The path of report.html.

  Raises:
    UserError: results.json is missing, broken or of something else, or the
      folder cannot be written.
  """
  workdir = pathlib.Path(workdir)
  found = _load(workdir)
  for name, text in tables.texts(found).items():
    files.write_text(workdir / 'tables' / name, text)
  png = style.png(curves(found))
  files.write(
    workdir / 'figures' / 'roc.png', operator.methodcaller('write', png)
  )
  html = workdir / 'report.html'
  files.write_text(html, _page(found, png))
  return html
