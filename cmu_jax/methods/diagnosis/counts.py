"""Predictions on samples with wrong labels, counted into tables."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Tally(NamedTuple):
  """What sets of images are counted into.

  Attributes:
    moved: by guessed truth (row) and wrong label (column); diagonal 0.
    predicted: by predicted class (row) and wrong label (column).
  """

  moved: Int[np.ndarray, 'b k k']
  predicted: Int[np.ndarray, 'b k k']


def others(
  probability: Float[np.ndarray, 'n k'], label: Int[np.ndarray, 'n']
) -> Float[np.ndarray, 'n k']:
  """Probabilities with those of the wrong labels taken out."""
  found = np.array(probability)
  found[np.arange(len(label)), label] = -np.inf
  return found


def tally(
  probability: Float[np.ndarray, 'n k'],
  label: Int[np.ndarray, 'n'],
  weight: Int[np.ndarray, 'b n'] | None = None,
) -> Tally:
  """Counts images, once for each row of weights.

  Args:
    probability: of each class, as the network has it.
    label: the wrong labels.
    weight: how often each image counts in each of b sets; None for one set
      of all images.
  """
  classes = probability.shape[1]
  cells = [
    seen.argmax(axis=1) * classes + label
    for seen in (others(probability, label), probability)
  ]
  times = np.ones((1, len(label)), int) if weight is None else weight
  size = classes * classes
  start = size * np.arange(len(times))[:, None]
  counts = [
    np.bincount(
      (start + cell[None, :]).ravel(), times.ravel(), size * len(times)
    )
    for cell in cells
  ]
  shape = (len(times), classes, classes)
  return Tally(*(x.reshape(shape).round().astype(int) for x in counts))


def transition(
  table: Int[np.ndarray, 'k k'],
) -> Float[np.ndarray, 'k k']:
  """P(wrong label | row) of a table as in `Tally`; 0 without images."""
  return table / np.maximum(table.sum(axis=1, keepdims=True), 1)
