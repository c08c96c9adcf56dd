r"""Diagnosis of the corruption of a network from samples with wrong labels.

A label that is known to be wrong cannot be the truth, so the best guess of the
truth is the class that the network finds likeliest among the others. The table

  N[i, j] = images whose truth is guessed as i and whose wrong label is j

has an empty diagonal. However much of the corruption was learnt, it resembles
the transition matrix. Families of matrices are compared by the length of their
codes for the table (`codes`).

The confidence is the share of random halves of the images on which the same
family wins. A half varies an average as a new sample of all images would.

References:
  Halves: Politis and Romano, Ann. Statist. 22 (1994) 2031.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from cmu_jax.core import errors, jit, progress
from cmu_jax.core.types import Info, PRNGKey
from cmu_jax.methods.cuts import alpha_evidence
from cmu_jax.methods.diagnosis import codes
from cmu_jax.training import metrics

FAMILIES = codes.FAMILIES
UNCLEAR = 'unclear'
# Halves are tabulated in chunks with at most this many table cells in memory.
_CELLS = 4_000_000


class Diagnosis(NamedTuple):
  """The result of a diagnosis.

  Attributes:
    family: one of FAMILIES, or 'unclear': no family wins more than half of the
      halves, none is likelier than all others together, or the network gives
      most samples their allegedly wrong label while no map, pair or target
      explains it.
    confidence: the share of halves that the family with the shortest code
      wins, even if the family is 'unclear'.
    tally: the tables of all images, as one set.
    record: numbers and lists, ready for JSON.
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
  """The share of halves that each family wins."""
  cells = len(half) * probability.shape[1] ** 2
  chunks = np.array_split(half, min(-(-cells // _CELLS), len(half)))
  wins = np.zeros(len(FAMILIES))
  with progress.bar('diagnosis', len(half), unit='halves') as advance:
    for chunk in chunks:
      nats = codes.code_lengths(codes.tally(probability, label, chunk))
      wins += np.bincount(nats.argmin(axis=1), minlength=len(FAMILIES))
      advance(len(chunk))
  return wins / len(half)


def diagnose(
  key: PRNGKey,
  probability: Float[np.ndarray, 'n k'],
  label: Int[np.ndarray, 'n'],
  halves: int = 200,
) -> Diagnosis:
  """Finds the family of corruptions that the samples show, with a confidence.

  It cannot see if the labels are wrong at all: a network predicts right labels
  and a fully learnt corruption alike. And if random labels left no trace on
  unseen images, the network looks like one that never saw them: under symmetric
  noise `error_rate` measures the errors of the network, not their cause.

  Args:
    key: draws the halves.
    probability: of each class, of images that the network was not trained on.
    halves: random halves of the images.

  Returns:
    The family with its confidence. The record has `agreement` (the share of
    images predicted as their wrong label), `chance` (the agreement of errors
    that are independent of the corruption), `learnt` (agreement less chance is
    above 0 at 95 %, one-sided; both None for families without such a mark),
    `error_rate` (symmetric: k - 1 times the agreement) with its 90 % interval,
    `class_map`, `pair` or `target`, `share` of halves and `nats` above the
    shortest code by family, and the largest `cells` (guessed truth, wrong
    label, images).

  Raises:
    UserError: fewer than two classes, or no image.
  """
  count, classes = probability.shape
  errors.check(
    count and classes >= 2,
    f'{count} images of {classes} classes cannot be diagnosed; give at least '
    'one image, and two classes',
  )
  # Halves rather than bootstrap samples: repeated images would form structure
  # that a short code could use.
  draw = jit.compile_cheaply(
    lambda k: jax.random.uniform(k, (halves, count), 'float32')
  )
  order = np.asarray(draw(key)).argsort(axis=1)
  half = (order < max(count // 2, 1)).astype(int)
  tally = codes.tally(probability, label)
  nats = codes.code_lengths(tally)[0]
  nats -= nats.min()
  best = FAMILIES[int(nats.argmin())]
  win_shares = _win_shares(probability, label, half)
  share = dict(zip(FAMILIES, win_shares.tolist(), strict=True))
  marks = _measure_agreement(best, tally.moved[0], probability, label, half)
  # Any table has a transition matrix: if the network also agrees with most
  # labels, they are probably right and the table shows its ordinary errors.
  labels_look_right = best == 'transition' and marks['agreement'] > 0.5
  likely = share[best] > 0.5 and np.exp(-nats).sum() < 2
  family = best if likely and not labels_look_right else UNCLEAR
  record = {
    'family': family,
    'confidence': share[best],
    'best': best,
    'samples': count,
    'labels_look_right': labels_look_right,
    **marks,
    'share': share,
    'nats': dict(zip(FAMILIES, metrics.json_list(nats), strict=True)),
    'cells': _largest_cells(tally.moved[0]),
  }
  return Diagnosis(family, share[best], tally, record)


def _largest_cells(
  table: Int[np.ndarray, 'k k'], limit: int = 20
) -> list[list[int]]:
  """The cells with the most images: row, column, images."""
  order = np.argsort(-table, axis=None, kind='stable')[:limit]
  rows, columns = np.unravel_index(order, table.shape)
  cells = np.stack([rows, columns, table[rows, columns]], 1)
  return cells[cells[:, 2] > 0].tolist()


def _chance_agreement(
  family: str,
  cells: Int[np.ndarray, 'c 2'],
  guess: Int[np.ndarray, 'n'],
  agreed: Bool[np.ndarray, 'n'],
  label: Int[np.ndarray, 'n'],
  classes: int,
) -> Float[np.ndarray, 'n'] | None:
  """The contribution of each image to the agreement that is due to chance.

  None for families whose wrong labels leave no such mark.
  """
  if family == 'one_target':
    # By chance the target is predicted as often as any other class.
    return ~agreed / (classes - 1)
  if family not in ('asymmetric', 'interclass'):
    return None
  in_structure = np.zeros((classes, classes), bool)
  in_structure[cells[:, 0], cells[:, 1]] = True
  # Predictions that are neither the wrong label nor the class that is mapped to
  # it are errors. Errors that are independent of the corruption hit the wrong
  # label as often as any other class.
  return (~agreed & ~in_structure[guess, label]) / max(classes - 2, 1)


def _measure_agreement(
  family: str,
  moved: Int[np.ndarray, 'k k'],
  probability: Float[np.ndarray, 'n k'],
  label: Int[np.ndarray, 'n'],
  half: Int[np.ndarray, 'b n'],
) -> Info:
  """Measures agreement against chance, and the rate of errors.

  Args:
    family: the family with the shortest code.
    moved: by guessed truth and wrong label, see `codes.Tally`.
    probability: of each class.
    half: membership of the images in each of b halves.

  Returns:
    Entries of the record, among them the classes of the family.
  """
  classes = probability.shape[1]
  agreed = probability.argmax(axis=1) == label
  structure, cells = codes.describe_structure(family, moved)
  guess = codes.mask_wrong_label(probability, label).argmax(axis=1)
  chance = _chance_agreement(family, cells, guess, agreed, label, classes)
  marks: Info = {'agreement': float(agreed.mean()), **structure}
  marks |= {'chance': None, 'learnt': None, 'error_rate': None}
  if chance is not None:
    # Row 0 has all images, as `estimate_gain` expects it.
    weight = np.concatenate([np.ones_like(half[:1]), half])
    weight = weight / weight.sum(axis=1, keepdims=True)
    gain = alpha_evidence.estimate_gain(weight @ (agreed - chance), 0.95)
    marks |= {'chance': float(chance.mean()), 'learnt': gain.low > 0}
  if family == 'symmetric':
    count = int(agreed.sum())
    interval = error_interval(count, len(label), classes)
    rate = (classes - 1) * count / len(label)
    marks |= {'error_rate': min(rate, 1.0), 'error_interval': list(interval)}
  return marks


def error_interval(
  agreed: int, count: int, classes: int
) -> tuple[float, float]:
  """Computes the 90 % interval of the error rate under symmetric noise.

  One in k - 1 errors is the wrong label, so the interval is k - 1 times the
  Clopper and Pearson interval of the share of agreement, at most 1.

  Args:
    agreed: images that are predicted as their wrong label.
    count: all images.
  """
  # At the ends of the range the beta distributions are degenerate.
  low = special.betaincinv(agreed, count - agreed + 1, 0.05) if agreed else 0
  high = (
    special.betaincinv(agreed + 1, count - agreed, 0.95)
    if agreed < count
    else 1
  )
  scaled = [min(float((classes - 1) * end), 1.0) for end in (low, high)]
  return scaled[0], scaled[1]
