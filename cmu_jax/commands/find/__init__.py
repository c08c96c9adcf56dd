"""Suspects in a labelled set of pictures, by a network or by stored answers.

As a program, `python -m cmu_jax find --help`; as a call:

  import cmu_jax
  results = cmu_jax.find(
    weights='resnet20.npz', model='resnet20', data='pictures', out='found',
  )
  suspects = cmu_jax.find(probabilities, labels, features)
"""

from collections.abc import Callable
from typing import Any

from cmu_jax.commands import flags
from cmu_jax.commands.find.request import FIND, FindRequest

__all__ = ['FIND', 'FindRequest', 'find', 'load']


def load() -> tuple[Callable[[Any], Any], Callable[[Any], str]]:
  """Imports the work of the command, with JAX; see `flags.run`."""
  from cmu_jax.commands.find import job, page

  return job.run, page.console


def find(
  probabilities: Any = None,
  labels: Any = None,
  features: Any = None,
  **settings: Any,
) -> Any:
  """Finds wrong labels and other suspects, in files or in arrays.

  From files, all settings are those of `FindRequest`, by name. From arrays, the
  answers of a network are enough:

    suspects = cmu_jax.find(probabilities, labels)
    suspects['wrong label'].row[:10]     # the ten most certain errors

  Args:
    probabilities: of k classes, [n, k], rows sum to 1; a path for stored ones.
    labels: as given, integers [n].
    features: of the last layer, [n, d], or None.
    **settings: by name.

  Returns:
    From files, the content of results.json in the folder `out`, where the list,
    the page and the folders lie. From arrays, kind -> `Suspects`, see
    `methods.detection.suspects.find`; nothing is written.

  Raises:
    UserError: settings, arrays, weights or pictures that do not fit.
  """
  if labels is not None:
    # Imported late: the flags of the command are checked without it.
    from cmu_jax.methods.detection import suspects

    return suspects.find(probabilities, labels, features, **settings)
  if probabilities is not None:
    settings['probabilities'] = probabilities
  return flags.call(FIND, load, settings)
