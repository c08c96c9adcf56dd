"""Any run on cells, in resumable pieces, for a machine lent for minutes.

One call begins what fits the minutes and writes a small JSON: provenance, the
whole configuration and the rows. The same command, with the same --work,
continues; a fresh machine starts over unless --work travels.

  python experiments/pieces.py configs/rmia_cifar10.py:references=8 \
    --minutes 9 --work /tmp/rmia --out $OUT --set dataset=npz:/tmp/cifar10.npz

Configs of the kinds that `main` runs as cells: corrective_*, amun_*, trw_*,
rmia_*, ulira_*, lotos_*, negation_*.
"""

import argparse
import pathlib
import time
from collections.abc import Callable

from cmu_jax.commands import shell, study, workdir
from cmu_jax.core import config, errors, files, jit
from cmu_jax.core.types import Info

_KEPT = (
  'schema',
  'name',
  'task',
  'smoke',
  'finished',
  'provenance',
  'config',
  'rows',
)


def parser(text: str, work: str) -> argparse.ArgumentParser:
  """The flags that all such scripts have.

  Args:
    text: what --help says.
    work: default of --work.
  """
  made = argparse.ArgumentParser(
    description=text, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  made.add_argument('--minutes', type=float, default=9.0)
  made.add_argument('--work', default=work)
  made.add_argument('--out', default='results')
  made.add_argument('--set', nargs='*', default=[], help='field=value')
  return made


def given(flags: argparse.Namespace) -> dict[str, str]:
  """The fields of --set."""
  for item in flags.set:
    errors.check('=' in item, f'--set {item} is not field=value')
  return dict(item.split('=', 1) for item in flags.set)


def run(
  spec: str,
  overrides: dict[str, str],
  flags: argparse.Namespace,
  name: str = '',
  extra: Callable[[list[Info]], Info] = lambda rows: {},
) -> pathlib.Path:
  """Continues a run and writes what there is.

  Args:
    spec: FILE.py[:arg] of the config.
    overrides: fields of it.
    flags: minutes, work and out.
    name: of the JSON; '' for that of the config.
    extra: rows -> what stands beside them.

  Returns:
    The path of the JSON.
  """
  began = time.monotonic()
  loaded = config.load(spec, overrides)
  run_study, _ = study.find_study(loaded.config.task)
  folder = pathlib.Path(flags.work)
  with (
    workdir.lock(folder, '--work'),
    jit.skip_optimizations(loaded.config.smoke),
  ):
    found = run_study(loaded.config, folder, flags.minutes)
  found['config'].pop('data_dir', None)
  path = pathlib.Path(flags.out) / f'{name or loaded.name}.json'
  files.write_json(
    path,
    {
      **{key: found[key] for key in _KEPT},
      **extra(found['rows']),
      'seconds_here': round(time.monotonic() - began, 1),
    },
  )
  return path


def main() -> None:
  """Continues the run of a config."""
  made = parser(__doc__ or '', 'runs/pieces')
  made.add_argument('config', help='FILE.py[:arg]')
  flags = made.parse_args()
  print(run(flags.config, given(flags), flags))


if __name__ == '__main__':
  shell.run_script(main)
