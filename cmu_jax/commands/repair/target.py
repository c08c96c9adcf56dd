"""Where a trigger leads: from a flag, from the folder, or from the network."""

from typing import Any

import numpy as np

from cmu_jax.core import errors


def target_of(
  given: Any,
  named: tuple[str, ...],
  found: tuple[str, ...],
  seen: np.ndarray,
) -> tuple[int, tuple[str, ...]]:
  """Where the trigger leads, and how that is known."""
  if given is not None:
    text = str(given)
    if text in named:
      return named.index(text), ()
    if text.isdecimal() and int(text) < len(named):
      return int(text), ()
    raise errors.unknown('--target', text, named)
  if len(found) == 1 and found[0] in named:
    return named.index(found[0]), (
      f"The trigger leads to class '{found[0]}', after the folder's name.",
    )
  counts = np.bincount(seen, minlength=len(named))
  target, share = int(counts.argmax()), counts.max() / counts.sum()
  errors.check(
    share >= 0.5,
    f'the bad samples are sent to many classes, most often {share:.0%} to '
    f"'{named[target]}': where does the trigger lead? give --target",
  )
  return target, (
    f"The trigger leads to class '{named[target]}', where the network sends "
    f'{share:.0%} of the bad samples.',
  )
