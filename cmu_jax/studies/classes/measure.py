"""What a network is measured by, from its logits on D, T and V alone.

Evaluation mode, no augmentation. Every number is set beside networks that were
retrained without the class; a retrained network is set beside the others.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Num

from cmu_jax import audits
from cmu_jax.core import jit, rng
from cmu_jax.core.types import Info
from cmu_jax.studies.classes import world
from cmu_jax.studies.subsets import measure
from cmu_jax.studies.subsets.world import Place

# What U-LiRA looks at, see `statistics`.
STATISTICS = ('own', 'nearest')


class Groups(NamedTuple):
  """Where in the pool is what, for one class.

  Attributes:
    forget: D_F, trained on.
    retain: D_R, trained on.
    unseen: images of the class that nobody trained on.
    others: such images of the retained classes.
  """

  forget: Bool[np.ndarray, 'n']
  retain: Bool[np.ndarray, 'n']
  unseen: Bool[np.ndarray, 'n']
  others: Bool[np.ndarray, 'n']


class Reference(NamedTuple):
  """Networks that were retrained without a class.

  Attributes:
    forgotten: the class.
    nearest: the class that they most often take it for.
    where: what is where in the pool.
    near: unseen images of the nearest class.
    accuracy: of MIA-NN, by network.
    answer: mean probabilities on unseen images of the class, by network.
  """

  forgotten: int
  nearest: int
  where: Groups
  near: Bool[np.ndarray, 'n']
  accuracy: Float[np.ndarray, 'r']
  answer: Float[np.ndarray, 'r k']


def groups(place: Place, forgotten: int, validation: bool) -> Groups:
  """Where is what; V stands for unseen images where choices are made."""
  own = world.labels(place) == forgotten
  known = world.trained(place)
  new = world.unseen(place, validation)
  return Groups(known & own, known & ~own, new & own, new & ~own)


def _answer(
  logits: Num[np.ndarray, 'n k'], rows: Bool[np.ndarray, 'n']
) -> Float[np.ndarray, 'k']:
  """Mean probabilities over some images."""
  wide = logits[rows].astype(np.float64)
  odds = np.exp(wide - wide.max(axis=1, keepdims=True))
  return (odds / odds.sum(axis=1, keepdims=True)).mean(axis=0)


def _separable(
  place: Place,
  logits: Num[np.ndarray, 'n k'],
  forgotten: int,
  where: Groups,
  near: Bool[np.ndarray, 'n'],
) -> float:
  return audits.discriminator_accuracy(
    rng.fold_in(0, 'folds'),
    logits,
    where.unseen,
    near,
    forgotten,
    place.config.evaluate.folds,
  )


def reference(
  place: Place,
  logits: Num[np.ndarray, 'r n k'],
  forgotten: int,
  validation: bool,
) -> Reference:
  """What retrained networks make of a class.

  Args:
    place: of the run.
    logits: of each retrained network on the pool.
    forgotten: the class.
    validation: whether V stands for unseen images, else T.
  """
  where = groups(place, forgotten, validation)
  nearest = audits.nearest_class(
    logits[:, where.unseen].argmax(axis=-1), forgotten
  )
  near = where.others & (world.labels(place) == nearest)
  accuracy = [_separable(place, x, forgotten, where, near) for x in logits]
  answer = np.stack([_answer(x, where.unseen) for x in logits])
  return Reference(forgotten, nearest, where, near, np.array(accuracy), answer)


def _beside(
  known: Reference,
  accuracy: float,
  answer: Float[np.ndarray, 'k'],
  own: int | None,
) -> Info:
  """Distances to retrained networks; of one of them, to the others."""
  if own is not None:
    apart = audits.accuracy_gap(accuracy, known.accuracy)
    spread = audits.total_variation_gap(answer, known.answer)
    rest = audits.leave_one_out_means(known.accuracy)[own]
    return {
      'mia_nn_gap': float(abs(accuracy - rest)),
      'mia_nn_floor': apart.floor,
      'mia_nn_inside': None,
      'tv': float(spread.retrained[own]),
      'tv_floor': spread.floor,
      'tv_inside': None,
    }
  gap = audits.accuracy_gap(accuracy, known.accuracy)
  far = audits.total_variation_gap(answer, known.answer)
  return {
    'mia_nn_gap': gap.gap,
    'mia_nn_floor': gap.floor,
    'mia_nn_inside': gap.within_retrained,
    'tv': far.gap,
    'tv_floor': far.floor,
    'tv_inside': far.within_retrained,
  }


def values(
  place: Place,
  logits: Num[np.ndarray, 'n k'],
  known: Reference,
  own: int | None = None,
) -> Info:
  """The numbers of a row.

  Args:
    place: of the run.
    logits: of the network on the pool.
    known: retrained networks without the class.
    own: which of them the network is; None for none.

  Returns:
    retain_accuracy (ACC_r) and forget_accuracy (ACC_f) on unseen images, and
    with `train_` before it on D_R and D_F; mis, of D_F with D_R for members
    and unseen images of retained classes for others; nearest_class,
    mia_nn_accuracy, mia_nn_gap, tv, their floors and whether they are inside;
    answer, the mean probabilities on unseen images of the class, and
    forget_probability, that of the class itself; loss_auc and entropy_auc,
    which tell D_F from unseen images of the same class.

  References:
    arXiv 2506.20893, section 5.
  """
  where, label = known.where, world.labels(place)
  hit = logits.argmax(axis=1) == label
  accuracy = _separable(place, logits, known.forgotten, where, known.near)
  answer = _answer(logits, where.unseen)
  chance = measure.signal(place, 'softmax', logits)
  sides = measure.Groups(where.forget, where.retain, where.others)
  areas = {}
  for name, signal in (
    ('loss_auc', 'log_likelihood'),
    ('entropy_auc', 'negative_entropy'),
  ):
    score = measure.signal(place, signal, logits)
    areas[name] = audits.auc(score[where.forget], score[where.unseen])
  return {
    'retain_accuracy': float(hit[where.others].mean()),
    'forget_accuracy': float(hit[where.unseen].mean()),
    'train_retain_accuracy': float(hit[where.retain].mean()),
    'train_forget_accuracy': float(hit[where.forget].mean()),
    'mis': measure.mis(place, chance, sides),
    'nearest_class': known.nearest,
    'mia_nn_accuracy': accuracy,
    **_beside(known, accuracy, answer, own),
    'forget_probability': float(answer[known.forgotten]),
    'answer': np.round(answer, 5).tolist(),
    **areas,
  }


def statistics(
  place: Place, logits: Num[np.ndarray, '*r n k'], known: Reference
) -> dict[str, Float[np.ndarray, '*r m']]:
  """What U-LiRA looks at on forgotten images.

  The logit-scaled confidence of the class itself, and of its nearest class:
  where a method forbids the class outright, the first one says only that.

  Args:
    place: of the run.
    logits: on the pool, of one network or of several.
    known: for the class and its nearest one.

  Returns:
    'own' and 'nearest', clipped to +-60.
  """
  rows = np.flatnonzero(known.where.forget)
  rows = rows[: place.config.evaluate.ulira_points]
  seen = jnp.asarray(logits[..., rows, :])
  confidence = jit.compile_cheaply(audits.logit_confidence)
  labels = {'own': known.forgotten, 'nearest': known.nearest}
  found = {
    name: confidence(seen, jnp.full(rows.size, label, jnp.int32))
    for name, label in labels.items()
  }
  return {
    name: np.clip(
      np.asarray(x, np.float64), -audits.CONFIDENCE_CLIP, audits.CONFIDENCE_CLIP
    )
    for name, x in found.items()
  }
