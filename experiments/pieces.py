"""Any run on cells, in resumable pieces, for a machine lent for minutes.

A call begins the work that fits the minutes and writes a small JSON:
provenance, the whole configuration and the rows. The same command, with the
same --work, continues; a fresh machine starts over unless --work travels.

  python experiments/pieces.py configs/rmia_cifar10.py:references=8 \
    --minutes 9 --work /tmp/rmia --out $OUT --set dataset=npz:/tmp/cifar10.npz

Configs of the kinds that `main` runs as cells: corrective_*, amun_*, trw_*,
rmia_*, ulira_*, lotos_*, negation_*.
"""

import argparse
import pathlib
import time
from collections.abc import Callable

import cell_runs

from cmu_jax.commands import shell, study, workdir
from cmu_jax.core import config, errors, files, jit
from cmu_jax.core.types import Info

_FIELDS = (
  'schema',
  'name',
  'task',
  'smoke',
  'finished',
  'provenance',
  'config',
  'rows',
)


def parser(text: str | None, work: str) -> argparse.ArgumentParser:
  """Returns a parser with the flags of all such scripts.

  Args:
    text: for --help.
    work: default of --work.
  """
  flags = cell_runs.parser(text)
  flags.add_argument('--minutes', type=float, default=9.0)
  flags.add_argument('--work', default=work)
  flags.add_argument('--out', default='results')
  flags.add_argument('--arg', default='', help='of the config')
  flags.add_argument('--set', nargs='*', default=[], help='field=value')
  return flags


def overrides(flags: argparse.Namespace) -> dict[str, str]:
  """Reads the fields of --set."""
  for item in flags.set:
    errors.check('=' in item, f'--set {item} is not field=value')
  return dict(item.split('=', 1) for item in flags.set)


def run(
  file: str,
  flags: argparse.Namespace,
  fields: dict[str, str] | None = None,
  name: str = '',
  extra: Callable[[list[Info]], Info] = lambda rows: {},
) -> pathlib.Path:
  """Continues a run and writes its results so far.

  Args:
    file: FILE.py[:arg] of the config.
    flags: minutes, work, out, arg and set.
    fields: of the config, unless --set has them.
    name: of the JSON; '' for that of the config.
    extra: rows -> further content of the JSON.

  Returns:
    The path of the JSON.
  """
  began = time.monotonic()
  separator = ',' if ':' in file else ':'
  spec = f'{file}{separator}{flags.arg}' if flags.arg else file
  loaded = config.load(spec, {**(fields or {}), **overrides(flags)})
  run_study, _ = study.find_study(loaded.config.task)
  folder = pathlib.Path(flags.work)
  with (
    workdir.lock(folder, '--work'),
    jit.skip_optimizations(loaded.config.smoke),
  ):
    results = run_study(loaded.config, folder, flags.minutes)
  # A path of this machine, which nobody else needs.
  results['config'].pop('data_dir', None)
  path = pathlib.Path(flags.out) / f'{name or loaded.name}.json'
  files.write_json(
    path,
    {
      **{key: results[key] for key in _FIELDS},
      **extra(results['rows']),
      'seconds_here': round(time.monotonic() - began, 1),
    },
  )
  return path


def main() -> None:
  """Continues the run of a config."""
  flags = parser(__doc__, 'runs/pieces')
  flags.add_argument('config', help='FILE.py[:arg]')
  values = flags.parse_args()
  print(run(values.config, values))


if __name__ == '__main__':
  shell.run_script(main)
