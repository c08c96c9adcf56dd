"""Repair of a classifier from its weights and a folder of bad samples.

As a program, `python -m cmu_jax repair --help`; as a call:

  import cmu_jax
  results = cmu_jax.repair(
    weights='resnet20.npz', model='resnet20', proxy='bad_samples',
    kind='poison', out='repaired', mean=(0.5,), std=(0.25,),
  )
"""

from collections.abc import Callable
from typing import Any

from cmu_jax.commands import flags
from cmu_jax.commands.requests import REPAIR, RepairRequest

__all__ = ['RepairRequest', 'load', 'repair']


def load() -> tuple[Callable[[Any], Any], Callable[[Any], str]]:
  """Imports the work of the command, with JAX; see `flags.run`."""
  from cmu_jax.commands.repair import job, words

  return job.run, words.console


def repair(**settings: Any) -> dict[str, Any]:
  """Repairs a network; see `RepairRequest` for the settings.

  Returns:
    The content of results.json in the folder `out`. The repaired weights lie
    beside it, in the format of the given ones.

  Raises:
    UserError: settings, weights or pictures that do not fit.
  """
  return flags.call(REPAIR, load, settings)
