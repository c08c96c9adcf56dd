"""The command line: python -m cmu_jax.main --config=FILE.py[:ARG]."""

import contextlib
import importlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from cmu_jax.commands import shell, study, usage, workdir
from cmu_jax.core import config as config_lib
from cmu_jax.core import errors, files

# Tasks of many cells, and their packages with `job.run` and `show.show`.
SWEEPS = {
  'corrective': 'corrective',
  'forgetting': 'subsets',
  'class_unlearning': 'classes',
  'ensemble': 'ensembles',
  'membership': 'membership',
  'negation': 'negation',
}


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
  if loaded.config.get('smoke'):
    shell.compile_quickly()
  folder = pathlib.Path(flags.workdir or f'runs/{loaded.name}').expanduser()
  if loaded.config.get('task') in SWEEPS:
    return _benchmark(loaded, folder, flags)
  for name in ('minutes', 'distributed'):
    errors.check(
      getattr(flags, name) is None,
      f'--{name} is for the benchmark, corrective_*.py; leave it out',
    )
  if flags.sweep:
    return study.run_grid(loaded, overrides, folder, _execute)
  _execute(loaded, folder)
  return 0


def _execute(loaded: config_lib.LoadedConfig, folder: pathlib.Path) -> None:
  """Runs one experiment; JAX is imported only now, so that errors are quick."""
  with workdir.open_run(folder, loaded.config):
    experiment = importlib.import_module('cmu_jax.studies.cuts.run').experiment
    experiment(loaded.config, folder)


def _benchmark(
  loaded: config_lib.LoadedConfig, folder: pathlib.Path, flags: Any
) -> int:
  """Runs a sweep; of several processes the first one holds the folder."""
  task = loaded.config.task
  errors.check(
    flags.distributed is None or task == 'corrective',
    '--distributed is for the benchmark, corrective_*.py; leave it out',
  )
  if flags.distributed is not None:
    importlib.import_module('cmu_jax.studies.engine.workers').join(
      flags.distributed
    )
  _sweep(loaded.config, folder, flags.minutes)
  return 0


def _sweep(config: Any, folder: pathlib.Path, minutes: float | None) -> None:
  """Cells, then results.json, tables, figures and the page."""
  package = f'cmu_jax.studies.{SWEEPS[config.task]}'
  job = importlib.import_module(f'{package}.job')
  show = importlib.import_module(f'{package}.show').show
  chief = importlib.import_module('cmu_jax.studies.engine.workers').chief()
  on_device = importlib.import_module(
    'cmu_jax.studies.engine.workers'
  ).on_device
  hasty = importlib.import_module('cmu_jax.core.jit').hasty
  with on_device(), hasty(config.smoke), contextlib.ExitStack() as held:
    if chief:
      held.enter_context(workdir.lock(folder))
    results = job.run(config, folder, minutes)
    if chief:
      files.write_json(folder / 'results.json', results)
      print(f'report: {show(folder)}')


if __name__ == '__main__':
  sys.exit(main())
