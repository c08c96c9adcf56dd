"""The command `study`: runs a config file, or each cell of its sweep."""

import contextlib
import functools
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cmu_jax import studies
from cmu_jax.commands import shell, usage, workdir
from cmu_jax.core import config as config_lib
from cmu_jax.core import errors, files, progress
from cmu_jax.core.config import LoadedConfig

RESULTS_FILE = 'results.json'
TABLE_FILE = 'sweep.md'
# A sweep that ends this soon needs no forecast.
_SHORT_SECONDS = 60.0
_MEMORY_REMEDY = (
  'lower config.model.width, the batch_size of config.train, proxy_train and '
  'finetune, or config.evaluate.batch_size'
)
# (config, folder, minutes) -> results, and (folder) -> path of the report.
Study = tuple[Callable[..., Any], Callable[..., Any]]


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line and returns the exit code, see `shell.run`."""
  return shell.run(_run, argv)


def _run(argv: Sequence[str]) -> int:
  flags, overrides = usage.parse(argv)
  # Before the config file, which imports JAX: it reads its environment then.
  shell.set_up()
  loaded = config_lib.load(flags.config, overrides) if flags.config else None
  if flags.help or loaded is None:
    print(usage.help_text(pathlib.Path('configs'), loaded))
    return 0
  # The flags of XLA are read once, at its first compilation.
  if loaded.config.get('smoke'):
    shell.compile_quickly()
  folder = files.expand(flags.workdir or f'runs/{loaded.name}')
  if flags.sweep and _claims_folder(loaded.config):
    return run_grid(
      loaded,
      overrides,
      folder,
      lambda cell, part: run_config(cell.config, part, flags),
    )
  run_config(loaded.config, folder, flags)
  return 0


def _claims_folder(config: Any) -> bool:
  """Returns whether a work folder belongs to one config.

  Other studies share their cells between all configs of a folder.
  """
  task = config.get('task')
  return task in studies.CLAIMS_FOLDER or task not in studies.STUDIES


def run_config(config: Any, folder: pathlib.Path, flags: Any) -> None:
  """Runs or continues the study of a config in a work folder."""
  chief = True
  if flags.distributed is not None:
    from cmu_jax.studies.engine import workers

    workers.join(flags.distributed)
    chief = workers.is_chief()
  with contextlib.ExitStack() as stack:
    # One process alone may lock the folder and write the results.
    if chief and _claims_folder(config):
      stack.enter_context(workdir.open_run(folder, config))
    elif chief:
      stack.enter_context(workdir.lock(folder))
    if chief:
      workdir.check_space(folder)
    _compute(config, folder, flags.minutes)


def _compute(config: Any, folder: pathlib.Path, minutes: float | None) -> None:
  """Runs the cells of a study; writes results.json and the report."""
  with shell.report_device_errors(_MEMORY_REMEDY):
    # JAX is imported here, so that mistakes in a command show at once.
    from cmu_jax.core import jit
    from cmu_jax.studies.engine import workers

    run, show = find_study(config.task)
    with jit.skip_optimizations(config.smoke):
      results = run(config, folder, minutes)
    if workers.is_chief():
      print(f'report: {_write_results(config, folder, results, show)}')


def _write_results(
  config: Any, folder: pathlib.Path, results: Any, show: Callable[..., Any]
) -> Any:
  """Writes results.json and the report; returns the path of the report."""
  # A sweep passes over a finished run, so its report comes before its end.
  pending = {'finished': False} if _claims_folder(config) else {}
  files.write_json(folder / RESULTS_FILE, {**results, **pending})
  report = show(folder)
  if pending:
    files.write_json(folder / RESULTS_FILE, results)
  return report


def find_study(task: str) -> Study:
  """Finds the functions of a task: its run, and its report."""
  from cmu_jax.report import frame
  from cmu_jax.studies.engine.run import run_study

  # CUTS names the tasks that there are, where a task is unknown.
  study = studies.STUDIES.get(task, studies.STUDIES['label_noise'])()
  return (
    functools.partial(run_study, study),
    functools.partial(frame.show, study.report),
  )


def run_grid(
  loaded: LoadedConfig,
  overrides: Mapping[str, str],
  folder: pathlib.Path,
  execute: Callable[[LoadedConfig, pathlib.Path], Any],
) -> int:
  """Runs the cells that are not finished yet and writes folder/sweep.md.

  Args:
    loaded: the config file with the sweep.
    overrides: applied to every cell.
    folder: each cell runs in folder/<cell name>.
    execute: (loaded, workdir) -> anything; writes workdir/results.json.

  Returns:
    The exit code: 0, or 2 if a cell failed; the other cells are run anyway.
  """
  # All cells are loaded first: a mistake in the last one is reported at once.
  cells = {
    name: config_lib.load(spec, overrides)
    for name, spec in config_lib.sweep_cells(loaded).items()
  }
  failures, durations = {}, []
  for number, (name, cell) in enumerate(cells.items(), 1):
    title = f'cell {number}/{len(cells)} {name}'
    if read_finished(folder / name, cell.config) is not None:
      print(f'{title}: finished already', file=sys.stderr)
      continue
    print(title, file=sys.stderr)
    began = time.monotonic()
    try:
      execute(cell, folder / name)
      durations.append(time.monotonic() - began)
      _tell_remaining(durations, len(cells) - number)
    # A cell that fails must not stop a sweep that runs overnight.
    except errors.UserError as error:
      print(f'{title}: failed: {error}', file=sys.stderr)
      failures[name] = str(error)
  finished = {
    name: results
    for name, cell in cells.items()
    if (results := read_finished(folder / name, cell.config)) is not None
  }
  files.write_text(folder / TABLE_FILE, accuracy_table(finished, list(cells)))
  print(f'wrote {folder / TABLE_FILE}', file=sys.stderr)
  for name, reason in failures.items():
    print(f'error: cell {name}: {reason}', file=sys.stderr)
  return 2 if failures else 0


def _tell_remaining(durations: Sequence[float], count: int) -> None:
  """Says how long the other cells of a sweep will take at most."""
  # Cells of an earlier call are passed over at no cost.
  seconds = count * statistics.fmean(durations)
  if seconds > _SHORT_SECONDS:
    print(
      f'sweep: {errors.count_text(count, "cell")} left, at most about '
      f'{progress.format_duration(seconds)} if they are like those so far',
      file=sys.stderr,
    )


def read_finished(folder: pathlib.Path, config: Any) -> dict[str, Any] | None:
  """Reads the results of a finished run of exactly this config, or None."""
  if not (folder / RESULTS_FILE).is_file():
    return None
  try:
    results = files.read_json(folder / RESULTS_FILE)
  except errors.UserError:
    return None
  if not isinstance(results, dict) or not results.get('finished', True):
    return None
  provenance = results.get('provenance') or {}
  same = provenance.get('config_hash') == config_lib.fingerprint(config)
  return results if same else None


def accuracy_table(
  finished: Mapping[str, dict[str, Any]], cells: list[str]
) -> str:
  """A Markdown table of mean ± std test accuracy: methods down, cells across.

  Args:
    finished: cell -> results, whose 'rows' have 'method' and 'test_accuracy'.
    cells: all cells, in order; an unfinished cell shows dashes.
  """
  scores: dict[str, dict[str, list[float]]] = {}
  for name, results in finished.items():
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
    texts = (_mean_and_std(by_cell.get(cell, [])) for cell in cells)
    lines.append(f'| {method} | ' + ' | '.join(texts) + ' |')
  return '\n'.join(lines) + '\n'


def _mean_and_std(values: list[float]) -> str:
  if not values:
    return '–'
  mean = statistics.fmean(values)
  spread = f' ± {statistics.stdev(values):.4f}' if len(values) > 1 else ''
  return f'{mean:.4f}{spread} ({len(values)})'
