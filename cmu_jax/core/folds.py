"""Long sums on the device, cut into segments so that their progress shows."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int

from cmu_jax.core import progress

_SEGMENT_SECONDS = 2.0


def run(
  segment: Callable[[Any, Any, Any], Any],
  total: Any,
  batches: int | Int[Array, ''],
  title: str,
) -> Any:
  """Folds all batches into a total; the result does not depend on the cuts.

  Args:
    segment: (total, start, stop) -> total over batches [start, stop); compiled
      with traced bounds; may donate the total.
    total: before the first batch.
    batches: how many; where it is traced, all of them are one segment.
    title: what the progress bar calls this.
  """
  if isinstance(batches, jax.core.Tracer):
    return segment(total, 0, batches)
  count, step, length = int(batches), 0, 1
  with progress.bar(title, count, 'batches') as advance:
    while step < count:
      stop, began = min(count, step + length), time.monotonic()
      total = jax.block_until_ready(segment(total, step, stop))
      each = (time.monotonic() - began) / (stop - step)
      advance(stop - step)
      step = stop
      length = int(np.clip(_SEGMENT_SECONDS / each, 1, 8 * length))
  return total
