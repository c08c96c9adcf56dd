"""Which class is which: from flags, from the side file, or from the folders."""

from typing import Any

import numpy as np

from cmu_jax.core import errors
from cmu_jax.data.sources import folder


def class_names(
  given: Any, classes: int, found: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """The names of all classes in the order of the outputs, and a note."""
  if given is not None:
    names_ = tuple(map(str, given))
    errors.check(
      len(names_) == classes and len(set(names_)) == classes,
      f'{len(set(names_))} different class names are given, the network has '
      f'{classes} outputs; name each once, in their order',
    )
    return names_, ()
  numbers = tuple(map(str, range(classes)))
  if set(found) <= {*numbers, ''}:
    return numbers, ()
  if len(found) == classes:
    return found, (
      'The classes are taken to be the folders in alphabetical order.',
    )
  raise errors.UserError(
    f'the network has {classes} outputs, the folder {len(found)} class folders '
    f'({", ".join(found[:4])}{"..." if len(found) > 4 else ""}): give '
    '--classes=A,B,... in the order of the outputs'
  )


def labels(
  root: str, pictures: folder.Pictures, named: tuple[str, ...]
) -> np.ndarray:
  """Class indices of pictures that lie in folders named after classes."""
  errors.check(
    pictures.names != ('',),
    f'{root} has no class folders: put each picture in the folder of its class '
    f'({", ".join(named[:3])}, ...)',
  )
  for name in pictures.names:
    if name not in named:
      raise errors.unknown(f'class folder in {root}', name, named)
  index = np.array([named.index(name) for name in pictures.names], np.int32)
  return index[pictures.group]
