"""The notebooks run from top to bottom, and their two forms agree."""

import json
import pathlib

import matplotlib
import pytest

jupytext = pytest.importorskip('jupytext', reason='jupytext is not installed')

FOLDER = pathlib.Path(__file__).parents[1] / 'notebooks'
TEXTS = sorted(FOLDER.glob('*.py'))
# Enough for every cell to run, not for its numbers to mean anything.
SMALL = {'STEPS': 40, 'SEEDS': 2, 'POINTS': 3, 'REFERENCES': 4}


def _cells(text):
  return jupytext.read(text).cells


def _small(cell):
  """A cell whose constants, one a line, are those of `SMALL`."""
  lines = []
  for line in cell.splitlines():
    name = line.partition(' = ')[0]
    lines.append(f'{name} = {SMALL[name]}' if name in SMALL else line)
  return '\n'.join(lines)


@pytest.mark.slow
@pytest.mark.parametrize('text', TEXTS, ids=lambda path: path.stem)
def test_every_cell_runs(text):
  matplotlib.use('Agg')
  from matplotlib import pyplot

  scope = {}
  for number, cell in enumerate(_cells(text)):
    if cell.cell_type == 'code' and not cell.source.startswith('%'):
      where = f'{text.name}, cell {number}'
      exec(compile(_small(cell.source), where, 'exec'), scope)
  assert pyplot.get_fignums(), 'no figure was drawn'
  pyplot.close('all')


@pytest.mark.parametrize('text', TEXTS, ids=lambda path: path.stem)
def test_the_notebook_is_its_text_without_outputs(text):
  book = json.loads(text.with_suffix('.ipynb').read_text('utf-8'))
  cells = [(c['cell_type'], ''.join(c['source'])) for c in book['cells']]
  assert cells == [(c.cell_type, c.source) for c in _cells(text)], (
    'run `make notebooks`'
  )
  code = [c for c in book['cells'] if c['cell_type'] == 'code']
  assert [c for c in code if c['outputs'] or c['execution_count']] == []


def test_there_are_notebooks():
  assert TEXTS
