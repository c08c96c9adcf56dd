"""Unlearning of some of a classifier's training pictures.

As a program, `python -m cmu_jax unlearn --help`; as a call:

  import cmu_jax
  results = cmu_jax.unlearn(
    weights='resnet20.npz', model='resnet20', forget='withdrawn',
    retain='still_ours', out='forgotten', mean=(0.5,), std=(0.25,),
  )
"""

from collections.abc import Callable
from typing import Any

from cmu_jax.commands import flags
from cmu_jax.commands.requests import METHODS, UNLEARN, UnlearnRequest

__all__ = ['METHODS', 'UnlearnRequest', 'load', 'unlearn']


def load() -> tuple[Callable[[Any], Any], Callable[[Any], str]]:
  """Imports the work of an unlearning, with JAX; see `flags.run`."""
  from cmu_jax.commands.unlearn import job, page

  return job.run, page.console


def unlearn(**settings: Any) -> dict[str, Any]:
  """Makes a network forget; see `UnlearnRequest` for the settings.

  Returns:
    The content of results.json in the folder `out`. The new weights lie beside
    it, in the format of the given ones.

  Raises:
    UserError: settings, weights or pictures that do not fit.
  """
  return flags.call(UNLEARN, load, settings)
