r"""Which corruption a network suffers from, told by samples with wrong labels.

A label that is known to be wrong cannot be the truth, so the best guess of the
truth is the class that the network finds likeliest among the others. The table

  N[i, j] = images whose truth is guessed as i and whose wrong label is j

has an empty diagonal and, however much of the corruption was learnt, the look
of the transition matrix. Families of matrices are compared by how short they
write it down (`codes`).

How sure: images are halved at random again and again (which varies an average
as a fresh sample of all of them would, and, unlike drawing with repeats, makes
no structure); the confidence is the share of halves won by the same family.

References:
  Halves: Politis and Romano, Ann. Statist. 22 (1994) 2031.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from cmu_jax.core import errors, jit, progress
from cmu_jax.core.types import Info, PRNGKey
from cmu_jax.methods.diagnosis import codes, memorization
from cmu_jax.training import metrics

FAMILIES = codes.FAMILIES
UNCLEAR = 'unclear'
_CELLS = 4_000_000


class Diagnosis(NamedTuple):
  """What the samples say.

  Attributes:
    family: one of FAMILIES, or 'unclear': none wins more than half of the
      halves, none is likelier than all others together, or the network gives
      most samples the very label that is said to be wrong while no map, pair
      or target explains that.
    confidence: the share of halves that the family with the shortest code
      wins, whether or not that is clear.
    tally: one set, of all images; see `codes.transition_matrix`.
    record: numbers and lists, as JSON has them.
  """

  family: str
  confidence: float
  tally: codes.Tally
  record: Info


def _win_shares(
  probability: Float[np.ndarray, 'n k'],
  label: Int[np.ndarray, 'n'],
  half: Int[np.ndarray, 'b n'],
) -> Float[np.ndarray, 'f']:
  """The share of halves that each family wins.

  Tables are made for so many halves at a time as fit the memory.
  """
  most = len(half) * probability.shape[1] ** 2
  parts = np.array_split(half, min(-(-most // _CELLS), len(half)))
  won = np.zeros(len(FAMILIES))
  with progress.bar('diagnosis', len(half), unit='halves') as advance:
    for rows in parts:
      nats = codes.code_lengths(codes.tally(probability, label, rows))
      won += np.bincount(nats.argmin(axis=1), minlength=len(FAMILIES))
      advance(len(rows))
  return won / len(half)


def diagnose(
  key: PRNGKey,
  probability: Float[np.ndarray, 'n k'],
  label: Int[np.ndarray, 'n'],
  halves: int = 200,
) -> Diagnosis:
  """Which family of corruptions the samples show, and how sure that is.

  What it does not see: whether the labels are wrong at all. A network gives
  right labels as a fully learnt corruption would be given; where more than
  half of the samples agree and no map, pair or target explains them, the
  family is 'unclear'. Nor does a network on whose unseen images random labels
  left no trace differ from one that never saw them: under symmetric noise
  `error_rate` says how often the network errs, not why.

  Args:
    key: draws the halves.
    probability: of each class, of images that the network was not trained on.
    label: their wrong labels.
    halves: random halves of the images.

  Returns:
    The family with its confidence. The record has `agreement` (the share of
    images given their wrong label), `chance` (what it would be by errors that
    know nothing of the corruption), `learnt` (whether agreement less chance is
    above 0 at 95 %, one-sided; both None where no mark is left), `error_rate`
    (symmetric: k - 1 times the agreement) with its 90 % interval, `class_map`,
    `pair` or `target`, `share` of halves and `nats` above the shortest code by
    family, and the largest `cells` (guessed truth, wrong label, images).

  Raises:
    UserError: fewer than two classes, or no image.
  """
  count, classes = probability.shape
  errors.check(
    count and classes >= 2,
    f'{count} images of {classes} classes cannot be diagnosed; give at least '
    'one image, and two classes',
  )
  draw = jit.compile_cheaply(lambda k: jax.random.uniform(k, (halves, count)))
  order = np.asarray(draw(key)).argsort(axis=1)
  half = (order < max(count // 2, 1)).astype(int)
  whole = codes.tally(probability, label)
  nats = codes.code_lengths(whole)[0]
  nats -= nats.min()
  best = FAMILIES[int(nats.argmin())]
  shares = _win_shares(probability, label, half)
  share = dict(zip(FAMILIES, shares.tolist(), strict=True))
  seen = memorization.measure(best, whole.moved[0], probability, label, half)
  right = best == 'transition' and seen['agreement'] > 0.5
  likely = share[best] > 0.5 and np.exp(-nats).sum() < 2
  family = best if likely and not right else UNCLEAR
  record = {
    'family': family,
    'confidence': share[best],
    'best': best,
    'samples': count,
    'labels_look_right': right,
    **seen,
    'share': share,
    'nats': dict(zip(FAMILIES, metrics.json_list(nats), strict=True)),
    'cells': _largest_cells(whole.moved[0]),
  }
  return Diagnosis(family, share[best], whole, record)


def _largest_cells(
  table: Int[np.ndarray, 'k k'], most: int = 20
) -> list[list[int]]:
  """The cells with the most images: row, column, images."""
  order = np.argsort(-table, axis=None, kind='stable')[:most]
  rows, columns = np.unravel_index(order, table.shape)
  found = np.stack([rows, columns, table[rows, columns]], 1)
  return found[found[:, 2] > 0].tolist()
