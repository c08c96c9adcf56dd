r"""Code lengths of tables of wrong labels, for families of transition matrices.

Rows and cells that a family leaves open are coded by Dirichlet(1/2) mixtures,
its discrete choices (classes, pair or map) by the logarithm of their number.
The shortest code wins: minimum description length, or BIC with its constant
terms. A pair, a map and a target must contain most of the images.

References:
  Krichevsky and Trofimov, IEEE Trans. Inf. Theory 27 (1981) 199.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from cmu_jax.core.types import Info

FAMILIES = ('symmetric', 'asymmetric', 'interclass', 'one_target', 'transition')


class Tally(NamedTuple):
  """Counts of images, for b sets of images.

  Attributes:
    moved: by guessed truth (row) and wrong label (column); diagonal 0.
    predicted: by predicted class (row) and wrong label (column).
  """

  moved: Int[np.ndarray, 'b k k']
  predicted: Int[np.ndarray, 'b k k']


def mask_wrong_label(
  probability: Float[np.ndarray, 'n k'], label: Int[np.ndarray, 'n']
) -> Float[np.ndarray, 'n k']:
  """Replaces the probability of every wrong label by -inf."""
  masked = np.array(probability)
  masked[np.arange(len(label)), label] = -np.inf
  return masked


def tally(
  probability: Float[np.ndarray, 'n k'],
  label: Int[np.ndarray, 'n'],
  weight: Int[np.ndarray, 'b n'] | None = None,
) -> Tally:
  """Counts images, once for each row of weights.

  Args:
    probability: of each class, as the network predicts it.
    weight: multiplicity of each image in each of b sets; None for one set of
      all images.
  """
  classes = probability.shape[1]
  cells = [
    scores.argmax(axis=1) * classes + label
    for scores in (mask_wrong_label(probability, label), probability)
  ]
  weights = np.ones((1, len(label)), int) if weight is None else weight
  # Cells of different sets get different numbers: one `bincount` serves all.
  size = classes * classes
  start = size * np.arange(len(weights))[:, None]
  counts = [
    np.bincount(
      (start + cell[None, :]).ravel(), weights.ravel(), size * len(weights)
    )
    for cell in cells
  ]
  shape = (len(weights), classes, classes)
  return Tally(*(x.reshape(shape).round().astype(int) for x in counts))


def _mixture_nats(
  counts: Int[np.ndarray, '*b m'], cells: int
) -> Float[np.ndarray, '*b']:
  """Nats of counts [..., m] under a Dirichlet(1/2) mixture of `cells` cells.

  Cells beyond the m given ones are taken to be empty.
  """
  total = counts.sum(-1)
  spread = special.gammaln(cells / 2 + total) - special.gammaln(cells / 2)
  return spread - (special.gammaln(counts + 0.5) - special.gammaln(0.5)).sum(-1)


def _log_choices(classes: int, chosen: int) -> float:
  """The logarithm of the number of sets of `chosen` classes."""
  terms = special.gammaln([chosen + 1, classes - chosen + 1])
  return float(special.gammaln(classes + 1) - terms.sum())


def _scatter_nats(
  counts: Int[np.ndarray, 'b k k'], free: Bool[np.ndarray, '#b k k']
) -> Float[np.ndarray, 'b']:
  """Nats of the counts outside of a structure, the shortest of three codes.

  The codes are even over the free cells; by column, then even; or by column,
  then by weights that the rows have in all columns.
  """
  # The column codes serve wrong guesses of the truth: the wrong label is still
  # one that the structure gives, and the guess one that the network confuses.
  rows, columns = counts.sum(-1), counts.sum(-2)
  total, classes = columns.sum(-1), counts.shape[-1]
  even = total * np.log(np.maximum(free.sum((-1, -2)), 1))
  within = (columns * np.log(np.maximum(free.sum(-2), 1))).sum(-1)
  reach = (free * columns[..., None, :]).sum(-1)
  weight = (rows + 0.5) / (reach + 1)
  # A column without free cells has no counts: its logarithm must be finite.
  size = np.log((free * weight[..., None]).sum(-2) + 1e-300)
  weighted = (columns * size).sum(-1) - (rows * np.log(weight)).sum(-1)
  # k - 1 fitted weights cost half a logarithm each, as in BIC.
  weighted += (classes - 1) / 2 * np.log(np.maximum(total, 1))
  by_column = _mixture_nats(columns, classes) + np.minimum(within, weighted)
  # The choice of one code in three.
  return np.minimum(even, by_column) + np.log(3)


def _structure_nats(
  cells: Int[np.ndarray, 'b m'],
  moved: Int[np.ndarray, 'b k k'],
  mask: Bool[np.ndarray, 'b k k'],
) -> Float[np.ndarray, 'b']:
  """Nats of a table with most images in a few cells; else infinite.

  Args:
    cells: the counts of these cells.
    moved: the table.
    mask: the positions of these cells.
  """
  others = np.where(mask, 0, moved)
  within, outside = cells.sum(-1), others.sum((-1, -2))
  split = np.stack([within, outside], -1)
  free = ~mask & ~np.eye(moved.shape[-1], dtype=bool)
  nats = (
    _mixture_nats(split, 2)
    + _mixture_nats(cells, cells.shape[-1])
    + _scatter_nats(others, free)
  )
  return np.where(within > outside, nats, np.inf)


def largest_pair(moved: Int[np.ndarray, 'b k k']) -> Int[np.ndarray, 'b 2']:
  """Finds the two classes with the most images exchanged between them."""
  classes = moved.shape[-1]
  exchanged = np.triu(moved + np.swapaxes(moved, -1, -2))
  position = exchanged.reshape(*moved.shape[:-2], -1).argmax(-1)
  return np.stack([position // classes, position % classes], -1)


def best_map(
  moved: Int[np.ndarray, 'b k k'],
) -> tuple[Float[np.ndarray, 'b'], Int[np.ndarray, 'b']]:
  """Returns the nats of the best class map, and its number of classes."""
  classes = moved.shape[-1]
  best, to = moved.max(-1), moved.argmax(-1)
  # Equal counts keep the order of the classes: with a handful of images the
  # length may depend a little on it.
  order = np.argsort(-best, axis=-1, kind='stable')
  rank = np.argsort(order, axis=-1)
  ordered = np.take_along_axis(best, order, -1)
  hot = to[..., None] == np.arange(classes)
  largest = max(int((best > 0).sum(-1).max()), 1)
  # Each length also codes the number of classes, their set and their targets.
  lengths = [
    _structure_nats(ordered[..., :s], moved, hot & (rank < s)[..., None])
    + np.log(classes)
    + _log_choices(classes, s)
    + s * np.log(classes - 1)
    for s in range(1, largest + 1)
  ]
  nats = np.stack(lengths, -1)
  return nats.min(-1), nats.argmin(-1) + 1


def _take_cell(
  table: Int[np.ndarray, 'b k k'], position: Int[np.ndarray, 'b 2']
) -> Int[np.ndarray, 'b']:
  """Takes one cell of each table."""
  row = np.take_along_axis(table, position[..., :1, None], -2)
  return np.take_along_axis(row, position[..., None, 1:], -1)[..., 0, 0]


def _excess_nats(
  agreed: Int[np.ndarray, 'b'], total: Int[np.ndarray, 'b'], classes: int
) -> Float[np.ndarray, 'b']:
  """Nats by which the agreements are too many for symmetric noise."""
  share = agreed / np.maximum(total, 1)
  # A network that learnt nothing from random labels predicts the wrong label of
  # an unseen image in one of k - 1 errors, never more often.
  allowed = np.minimum(share, 1 / (classes - 1))
  fitted, bound = (
    special.xlogy(agreed, p) + special.xlog1py(total - agreed, -p)
    for p in (share, allowed)
  )
  return fitted - bound


def code_lengths(counts: Tally) -> Float[np.ndarray, 'b f']:
  """Computes the nats that each of FAMILIES needs for the tables."""
  moved = counts.moved
  classes = moved.shape[-1]
  total = moved.sum((-1, -2))
  even = total * np.log(classes)
  # Rows are even or open: a bit codes the choice.
  rows = np.minimum(even, _mixture_nats(moved.sum(-1), classes)) + np.log(2)
  agreed = np.trace(counts.predicted, axis1=-2, axis2=-1)
  pair, target = largest_pair(moved), moved.sum(-2).argmax(-1)
  exchanged = np.stack(
    [_take_cell(moved, pair), _take_cell(moved, pair[..., ::-1])], -1
  )
  every = np.arange(classes)
  is_row, is_column = (
    every == end[..., None] for end in np.moveaxis(pair, -1, 0)
  )
  crossed = is_row[..., None] & is_column[..., None, :]
  crossed = crossed | np.swapaxes(crossed, -1, -2)
  column = np.take_along_axis(moved, target[..., None, None], -1)[..., 0]
  hit = np.broadcast_to(every == target[..., None, None], moved.shape)
  lengths = {
    'symmetric': rows
    + total * np.log(classes - 1)
    + _excess_nats(agreed, total, classes),
    'asymmetric': best_map(moved)[0],
    'interclass': _structure_nats(exchanged, moved, crossed)
    + _log_choices(classes, 2),
    'one_target': _structure_nats(column, moved, hit) + np.log(classes),
    'transition': rows + _mixture_nats(moved, classes - 1).sum(-1),
  }
  return np.stack([lengths[name] for name in FAMILIES], -1)


def describe_structure(
  family: str, moved: Int[np.ndarray, 'k k']
) -> tuple[Info, Int[np.ndarray, 'c 2']]:
  """Returns the classes of a family for the record, and its cells.

  A cell is (truth, wrong label).
  """
  every = np.arange(len(moved))
  if family == 'interclass':
    a, b = sorted(largest_pair(moved[None])[0].tolist())
    return {'pair': [a, b]}, np.array([[a, b], [b, a]])
  if family == 'one_target':
    target = int(moved.sum(0).argmax())
    cells = np.stack([every, np.full_like(every, target)], 1)
    return {'target': target}, cells[every != target]
  if family == 'asymmetric':
    size = best_map(moved[None])[1][0]
    rows = np.sort(np.argsort(-moved.max(1), kind='stable')[:size])
    cells = np.stack([rows, moved[rows].argmax(1)], 1)
    return {'class_map': cells.tolist()}, cells
  return {}, np.zeros((0, 2), int)
