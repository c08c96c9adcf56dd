"""Repair of a classifier from its weights and a folder of pictures.

As a program, `python -m cmu_jax repair --help`; as a call:

  import cmu_jax
  results = cmu_jax.repair(
    weights='resnet20.npz', model='resnet20', ordinary='pictures',
    kind='label_noise', out='repaired', mean=(0.5,), std=(0.25,),
  )
"""

from collections.abc import Callable
from typing import Any

from cmu_jax.commands import flags
from cmu_jax.commands.requests import REPAIR, RepairRequest
from cmu_jax.core import errors

__all__ = ['RepairRequest', 'load', 'repair']


def load() -> tuple[Callable[[Any], Any], Callable[[Any], str]]:
  """Imports the work of the command, with JAX; see `flags.run`."""
  from cmu_jax.commands.repair import job, words

  return job.run, words.console


def repair(
  model: Any = None, images: Any = None, labels: Any = None, **settings: Any
) -> Any:
  """Repairs a network from files, or from arrays.

  From files, all settings are those of `RepairRequest`, by name:

    cmu_jax.repair(weights='w.npz', model='resnet20', ordinary='p', ...)

  From arrays, the model is a `Network`, and its weights are `variables=`.
  Wrong labels need unlabelled pictures alone, or bad samples:

    cmu_jax.repair(network, variables=variables, ordinary=pictures)
    cmu_jax.repair(network, images, wrong_labels, variables=variables)

  Args:
    model: name of a network, or a network itself.
    images: bad samples, uint8 [n, h, w, c]; None for a repair from files, or
      from ordinary pictures alone.
    labels: their wrong labels [n]; see `arrays.repair_arrays` for the other
      settings of a repair from arrays.
    **settings: by name.

  Returns:
    From files, the content of results.json in the folder `out`; the repaired
    weights lie beside it, in the format of the given ones. From arrays, a
    `RepairResult`; nothing is written.

  Raises:
    UserError: settings, weights or pictures that do not fit.
  """
  if images is not None or 'variables' in settings:
    # Imported late: the flags of the command are checked without JAX.
    from cmu_jax.commands.repair import arrays

    # Python would name a function that the caller does not know.
    errors.check(
      'variables' in settings,
      "variables= is missing: give the network's Variables",
    )
    return arrays.repair_arrays(model, images, labels, **settings)
  named = {'model': model, 'labels': labels}
  settings |= {k: v for k, v in named.items() if v is not None}
  return flags.call(REPAIR, load, settings)
