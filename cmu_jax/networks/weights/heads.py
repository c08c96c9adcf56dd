"""The last layer in a file of weights: its names, how many classes."""

from collections.abc import Callable, Collection

import numpy as np

from cmu_jax.core import errors

HEADS = ('fc', 'linear', 'classifier', 'head', 'heads.head')


def known(torch_name: Callable[[str], str] | None) -> tuple[str, ...]:
  """What the last layer may be called in the files of a family.

  Args:
    torch_name: see `networks.Family`; its own name for the head is among them.
  """
  own = HEADS if torch_name is None else (*HEADS, torch_name('head'))
  return tuple(dict.fromkeys(own))


def of_head(name: str, names: Collection[str]) -> bool:
  """Whether an array belongs to a last layer of one of these names."""
  module = name.replace('/', '.').rpartition('.')[0]
  return any(module == head or module.endswith(f'.{head}') for head in names)


def num_classes(
  arrays: dict[str, np.ndarray], names: Collection[str] = HEADS
) -> int:
  """The number of outputs, from the shape of the head.

  Args:
    arrays: by stored name.
    names: what the head may be called, see `known`.

  Raises:
    UserError: no head is found, or one of fewer than two outputs.
  """
  for name, array in arrays.items():
    if array.ndim == 2 and of_head(name, names):
      torch = name.replace('/', '.').endswith('.weight')
      count = int(array.shape[0 if torch else 1])
      errors.check(
        count >= 2,
        f"the head '{name}' has {count} output{'' if count == 1 else 's'}; a "
        'classifier has one for each of at least 2 classes',
      )
      return count
  raise errors.UserError(
    'the weights hold no head, a matrix called '
    f'{", ".join(f"{head}.weight" for head in names)} or head/kernel; is it a '
    'classifier?'
  )
