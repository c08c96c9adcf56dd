"""A config file's sweep: every cell in a folder of its own, then one table."""

import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any

from cmu_jax.core import config as config_lib
from cmu_jax.core import errors, files

RESULTS_FILE = 'results.json'
TABLE_FILE = 'sweep.md'


def run_grid(
  loaded: config_lib.LoadedConfig,
  overrides: Mapping[str, str],
  folder: pathlib.Path,
  execute: Callable[[config_lib.LoadedConfig, pathlib.Path], Any],
) -> int:
  """Runs the cells that are not finished yet and writes folder/sweep.md.

  Args:
    loaded: the config file with the sweep.
    overrides: applied to every cell.
    folder: each cell runs in folder/<cell name>.
    execute: (loaded, workdir) -> anything; leaves results.json in workdir.

  Returns:
    The exit code: 0, or 2 if a cell failed (the others were run all the same).
  """
  cells = {
    name: config_lib.load(spec, overrides)
    for name, spec in config_lib.sweep_cells(loaded).items()
  }
  failures = {}
  for number, (name, cell) in enumerate(cells.items(), 1):
    title = f'cell {number}/{len(cells)} {name}'
    if read_finished(folder / name, cell.config) is not None:
      print(f'{title}: finished already', file=sys.stderr)
      continue
    print(title, file=sys.stderr)
    try:
      execute(cell, folder / name)
    except errors.UserError as error:
      print(f'{title}: failed: {error}', file=sys.stderr)
      failures[name] = str(error)
  done = {
    name: results
    for name, cell in cells.items()
    if (results := read_finished(folder / name, cell.config)) is not None
  }
  files.write_text(folder / TABLE_FILE, accuracy_table(done, list(cells)))
  print(f'wrote {folder / TABLE_FILE}', file=sys.stderr)
  for name, reason in failures.items():
    print(f'error: cell {name}: {reason}', file=sys.stderr)
  return 2 if failures else 0


def read_finished(folder: pathlib.Path, config: Any) -> dict[str, Any] | None:
  """The results of a finished run of exactly this config, or None."""
  if not (folder / RESULTS_FILE).is_file():
    return None
  try:
    results = files.read_json(folder / RESULTS_FILE)
  except errors.UserError:
    return None
  if not isinstance(results, dict) or not results.get('finished', True):
    return None
  made_by = results.get('provenance') or {}
  same = made_by.get('config_hash') == config_lib.fingerprint(config)
  return results if same else None


def accuracy_table(done: Mapping[str, dict[str, Any]], cells: list[str]) -> str:
  """Markdown: methods down, cells across, mean ± std of the test accuracy.

  Args:
    done: cell -> results, whose 'rows' have 'method' and 'test_accuracy'.
    cells: all of them, in order; one that is not done shows dashes.
  """
  scores: dict[str, dict[str, list[float]]] = {}
  for name, results in done.items():
    for row in results.get('rows', ()):
      if row.get('test_accuracy') is not None:
        by_cell = scores.setdefault(str(row['method']), {})
        by_cell.setdefault(name, []).append(float(row['test_accuracy']))
  lines = [
    'Test accuracy: mean ± sample standard deviation (number of runs).',
    '',
    '| method | ' + ' | '.join(cells) + ' |',
    '|---' * (len(cells) + 1) + '|',
  ]
  for method, by_cell in scores.items():
    shown = (_mean_and_std(by_cell.get(cell, [])) for cell in cells)
    lines.append(f'| {method} | ' + ' | '.join(shown) + ' |')
  return '\n'.join(lines) + '\n'


def _mean_and_std(values: list[float]) -> str:
  if not values:
    return '–'
  mean = statistics.fmean(values)
  spread = f' ± {statistics.stdev(values):.4f}' if len(values) > 1 else ''
  return f'{mean:.4f}{spread} ({len(values)})'
