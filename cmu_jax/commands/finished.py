"""Edits of networks: what chooses is computed once, what only looks is added.

Settings that an edit depends on name its run. Flags that only measure it, such
as --test, may come later: the edited weights are read from their file, and the
further measurements join those of the run.
"""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from cmu_jax.commands import flags, frame
from cmu_jax.core import config as config_lib
from cmu_jax.core import files, provenance
from cmu_jax.core.types import Info, Variables
from cmu_jax.networks import shipped
from cmu_jax.networks.shipped import ShippedNetwork

# Of results.json: all other fields are the record of the edit.
_LOOKS = ('measured', 'looks', 'looked')
_HEADER = ('schema', 'finished', 'provenance', 'settings', 'remarks')


class Edit(NamedTuple):
  """The parts of a command that edits a network.

  Attributes:
    command: with the flags that only look.
    network: as shipped.
    stem: of the name of the edited weights' file.
    solve: (settings, folder) -> edited weights and the record of the edit.
    measure: edited weights -> fields of results.json. They choose nothing.
    report: figure and page.
  """

  command: flags.Command
  network: ShippedNetwork
  stem: str
  solve: Callable[[Info, pathlib.Path], tuple[Variables, Info]]
  measure: Callable[[Variables], Info]
  report: frame.Report


def run(request: Any, settings: Info, edit: Edit) -> Info:
  """Edits a network, or measures more of an edit that is finished.

  Args:
    request: the user's flags.
    settings: everything else that the edit depends on.
    edit: see `Edit`.

  Returns:
    The content of results.json: `settings` chose the edit, `looks` are the
    flags that only measured it.

  Raises:
    UserError: the folder is in use, or holds results of another edit.
  """
  looks = {name: getattr(request, name) for name in edit.command.looks}

  def compute(settings: Info, out: pathlib.Path) -> tuple[Info, frame.Report]:
    stored = _read_results(out, settings)
    variables = _read_weights(edit.network, stored, out)
    if variables is None:
      stored = {}
      solved, record = edit.solve(settings, out)
      # Also for an edit of length 0: the next step of a pipeline finds its
      # weights.
      written = shipped.write(edit.network, solved, out, edit.stem)
      # A file in half precision may be too coarse for the edit.
      if 'repaired' in record:
        record['repaired'] = record['repaired'] and written.changed > 0
      record['notes'] = [*record['notes'], *written.notes]
      record |= {'weights': written.name, 'weights_sha256': written.sha256}
      variables = written.variables
    else:
      record = {k: v for k, v in stored.items() if k not in _HEADER + _LOOKS}
      # The edit is that of the earlier process.
      record['provenance'] = stored['provenance']
      record['looked'] = provenance.describe_process()
    measured = {'looks': looks, **edit.measure(variables)}
    return {**record, **_fill_absent(measured, stored)}, edit.report

  return frame.run_job(request, settings, compute, edit.command.looks)


def _read_results(out: pathlib.Path, settings: Info) -> Info:
  """Reads the results of an edit with these settings; {} without any."""
  path = out / frame.RESULTS
  if not path.exists():
    return {}
  stored: Any = files.read_json(path)
  same = stored.get('settings') == config_lib.to_json(settings)
  return stored if same else {}


def _read_weights(
  network: ShippedNetwork, stored: Info, out: pathlib.Path
) -> Variables | None:
  """Reads the weights that belong to results; None if they are others."""
  if 'weights_sha256' not in stored:
    return None
  path = out / stored['weights']
  return shipped.read_written(network, path, stored['weights_sha256'])


def _fill_absent(values: Any, earlier: Any) -> Any:
  """Replaces what was not measured now by an earlier measurement."""
  if isinstance(values, dict) and isinstance(earlier, dict):
    return {k: _fill_absent(v, earlier.get(k)) for k, v in values.items()}
  # A flag that is absent or false measured nothing.
  return earlier if values is None or values is False else values
