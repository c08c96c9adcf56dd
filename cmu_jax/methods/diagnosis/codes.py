"""Predictions on samples with wrong labels, counted into tables.

How short each family of transition matrices writes a table down.

Rows and cells that a family leaves open are coded by Dirichlet(1/2) mixtures,
which classes, pair or map it chooses by the number of choices. The shortest
code wins (minimum description length: BIC with its constant terms kept). A
pair, a map and a target have to hold most of the images.

References:
  Krichevsky and Trofimov, IEEE Trans. Inf. Theory 27 (1981) 199.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from cmu_jax.core.types import Info


class Tally(NamedTuple):
  """What sets of images are counted into.

  Attributes:
    moved: by guessed truth (row) and wrong label (column); diagonal 0.
    predicted: by predicted class (row) and wrong label (column).
  """

  moved: Int[np.ndarray, 'b k k']
  predicted: Int[np.ndarray, 'b k k']


def mask_wrong_label(
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
    for seen in (mask_wrong_label(probability, label), probability)
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


def transition_matrix(
  table: Int[np.ndarray, 'k k'],
) -> Float[np.ndarray, 'k k']:
  """P(wrong label | row) of a table as in `Tally`; 0 without images."""
  return table / np.maximum(table.sum(axis=1, keepdims=True), 1)


FAMILIES = ('symmetric', 'asymmetric', 'interclass', 'one_target', 'transition')


def _mixture_nats(
  counts: Int[np.ndarray, '*b m'], cells: int
) -> Float[np.ndarray, '*b']:
  """Nats of counts [..., m] under a Dirichlet(1/2) mixture of `cells` cells.

  Cells that are not among the m are taken to be empty.
  """
  total = counts.sum(-1)
  spread = special.gammaln(cells / 2 + total) - special.gammaln(cells / 2)
  return spread - (special.gammaln(counts + 0.5) - special.gammaln(0.5)).sum(-1)


def _log_choices(classes: int, chosen: int) -> float:
  """The logarithm of how many sets of so many classes there are."""
  both = special.gammaln([chosen + 1, classes - chosen + 1])
  return float(special.gammaln(classes + 1) - both.sum())


def _scatter_nats(
  rest: Int[np.ndarray, 'b k k'], free: Bool[np.ndarray, '#b k k']
) -> Float[np.ndarray, 'b']:
  """Nats of what lies outside of a structure, the shortest of three codes.

  Even over the free cells; by column, then even; or by column, then by weights
  that the rows have in all columns. For where the truth is guessed wrongly, the
  wrong label stays one of those that the structure gives, and the guess one of
  those that the network confuses.
  """
  rows, columns = rest.sum(-1), rest.sum(-2)
  total, classes = columns.sum(-1), rest.shape[-1]
  even = total * np.log(np.maximum(free.sum((-1, -2)), 1))
  within = (columns * np.log(np.maximum(free.sum(-2), 1))).sum(-1)
  reach = (free * columns[..., None, :]).sum(-1)
  weight = (rows + 0.5) / (reach + 1)
  size = np.log((free * weight[..., None]).sum(-2) + 1e-300)
  weighed = (columns * size).sum(-1) - (rows * np.log(weight)).sum(-1)
  weighed += (classes - 1) / 2 * np.log(np.maximum(total, 1))
  by_column = _mixture_nats(columns, classes) + np.minimum(within, weighed)
  return np.minimum(even, by_column) + np.log(3)


def _structure_nats(
  cells: Int[np.ndarray, 'b m'],
  moved: Int[np.ndarray, 'b k k'],
  mask: Bool[np.ndarray, 'b k k'],
) -> Float[np.ndarray, 'b']:
  """Nats of a table most of which is in a few cells; infinite where it is not.

  Args:
    cells: the counts of those cells.
    moved: the table.
    mask: where those cells are.
  """
  rest = np.where(mask, 0, moved)
  within, outside = cells.sum(-1), rest.sum((-1, -2))
  split = np.stack([within, outside], -1)
  free = ~mask & ~np.eye(moved.shape[-1], dtype=bool)
  nats = (
    _mixture_nats(split, 2)
    + _mixture_nats(cells, cells.shape[-1])
    + _scatter_nats(rest, free)
  )
  return np.where(within > outside, nats, np.inf)


def largest_pair(moved: Int[np.ndarray, 'b k k']) -> Int[np.ndarray, 'b 2']:
  """The two classes with the most images exchanged between them."""
  classes = moved.shape[-1]
  both = np.triu(moved + np.swapaxes(moved, -1, -2))
  where = both.reshape(*moved.shape[:-2], -1).argmax(-1)
  return np.stack([where // classes, where % classes], -1)


def best_map(
  moved: Int[np.ndarray, 'b k k'],
) -> tuple[Float[np.ndarray, 'b'], Int[np.ndarray, 'b']]:
  """Nats of the best class map, and of how many classes it is.

  Of equal counts the first is taken: with a handful of images the length may
  depend a little on the order of the classes.
  """
  classes = moved.shape[-1]
  best, to = moved.max(-1), moved.argmax(-1)
  order = np.argsort(-best, axis=-1, kind='stable')
  rank = np.argsort(order, axis=-1)
  ordered = np.take_along_axis(best, order, -1)
  hot = to[..., None] == np.arange(classes)
  most = max(int((best > 0).sum(-1).max()), 1)
  found = [
    _structure_nats(ordered[..., :s], moved, hot & (rank < s)[..., None])
    + np.log(classes)
    + _log_choices(classes, s)
    + s * np.log(classes - 1)
    for s in range(1, most + 1)
  ]
  nats = np.stack(found, -1)
  return nats.min(-1), nats.argmin(-1) + 1


def _take_cell(
  table: Int[np.ndarray, 'b k k'], where: Int[np.ndarray, 'b 2']
) -> Int[np.ndarray, 'b']:
  """One cell of each table."""
  row = np.take_along_axis(table, where[..., :1, None], -2)
  return np.take_along_axis(row, where[..., None, 1:], -1)[..., 0, 0]


def _excess_nats(
  agreed: Int[np.ndarray, 'b'], total: Int[np.ndarray, 'b'], classes: int
) -> Float[np.ndarray, 'b']:
  """Nats by which so many agreements are too many for symmetric noise.

  There the wrong label of an unseen image is predicted once in k - 1 errors.
  """
  share = agreed / np.maximum(total, 1)
  most = np.minimum(share, 1 / (classes - 1))
  fitted, bound = (
    special.xlogy(agreed, p) + special.xlog1py(total - agreed, -p)
    for p in (share, most)
  )
  return fitted - bound


def code_lengths(counts: Tally) -> Float[np.ndarray, 'b f']:
  """Nats that each of FAMILIES needs for the tables."""
  moved = counts.moved
  classes = moved.shape[-1]
  total = moved.sum((-1, -2))
  even = total * np.log(classes)
  rows = np.minimum(even, _mixture_nats(moved.sum(-1), classes)) + np.log(2)
  agreed = np.trace(counts.predicted, axis1=-2, axis2=-1)
  pair, target = largest_pair(moved), moved.sum(-2).argmax(-1)
  both = np.stack(
    [_take_cell(moved, pair), _take_cell(moved, pair[..., ::-1])], -1
  )
  every = np.arange(classes)
  first, second = (every == end[..., None] for end in np.moveaxis(pair, -1, 0))
  crossed = first[..., None] & second[..., None, :]
  column = np.take_along_axis(moved, target[..., None, None], -1)[..., 0]
  hit = np.broadcast_to(every == target[..., None, None], moved.shape)
  lengths = {
    'symmetric': rows
    + total * np.log(classes - 1)
    + _excess_nats(agreed, total, classes),
    'asymmetric': best_map(moved)[0],
    'interclass': _structure_nats(
      both, moved, crossed | np.swapaxes(crossed, -1, -2)
    )
    + _log_choices(classes, 2),
    'one_target': _structure_nats(column, moved, hit) + np.log(classes),
    'transition': rows + _mixture_nats(moved, classes - 1).sum(-1),
  }
  return np.stack([lengths[name] for name in FAMILIES], -1)


def describe_structure(
  family: str, moved: Int[np.ndarray, 'k k']
) -> tuple[Info, Int[np.ndarray, 'c 2']]:
  """Which classes a family is about, and the cells (truth, label) of it."""
  every = np.arange(len(moved))
  if family == 'interclass':
    a, b = sorted(largest_pair(moved[None])[0].tolist())
    return {'pair': [a, b]}, np.array([[a, b], [b, a]])
  if family == 'one_target':
    target = int(moved.sum(0).argmax())
    cells = np.stack([every, np.full_like(every, target)], 1)
    return {'target': target}, cells[every != target]
  if family == 'asymmetric':
    best = moved.max(1)
    rows = np.sort(
      np.argsort(-best, kind='stable')[: best_map(moved[None])[1][0]]
    )
    cells = np.stack([rows, moved[rows].argmax(1)], 1)
    return {'class_map': cells.tolist()}, cells
  return {}, np.zeros((0, 2), int)
