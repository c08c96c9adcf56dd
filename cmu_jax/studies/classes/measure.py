"""The numbers of a network that forgot a class, from its logits alone.

Images are not augmented. Every number is compared with networks retrained
without the class; a retrained network is compared with the other ones.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Num

from cmu_jax import audits
from cmu_jax.core import jit, rng
from cmu_jax.core.types import Info
from cmu_jax.studies.classes import world as worlds
from cmu_jax.studies.engine import pool
from cmu_jax.studies.engine.pool import World
from cmu_jax.studies.engine.study import Context

# Statistics that U-LiRA compares, see `statistics`.
STATISTICS = ('own', 'nearest')


class ClassGroups(NamedTuple):
  """Groups of the pool, for a class."""

  forget: Bool[np.ndarray, 'n']  # D_F, in the training set
  retain: Bool[np.ndarray, 'n']  # D_R, in the training set
  unseen: Bool[np.ndarray, 'n']  # unseen images of the class
  others: Bool[np.ndarray, 'n']  # unseen images of the retained classes


class Reference(NamedTuple):
  """Networks that were retrained without a class, as measured."""

  forget_class: int
  nearest: int  # the class that they predict most often for its images
  groups: ClassGroups
  near: Bool[np.ndarray, 'n']  # unseen images of the nearest class
  accuracy: Float[np.ndarray, 'r']  # of MIA-NN, by network
  # Mean probabilities on unseen images of the class, by network.
  answer: Float[np.ndarray, 'r k']


def split_pool(
  world: World, forget_class: int, validation: bool
) -> ClassGroups:
  """Splits the pool; unseen images are V for choices, else T."""
  in_class = worlds.pool_labels(world) == forget_class
  train = worlds.training_images(world)
  unseen = worlds.unseen_images(world, validation)
  return ClassGroups(
    train & in_class, train & ~in_class, unseen & in_class, unseen & ~in_class
  )


def _mean_answer(
  logits: Num[np.ndarray, 'n k'], rows: Bool[np.ndarray, 'n']
) -> Float[np.ndarray, 'k']:
  """Computes the mean probabilities over some images."""
  # float64, because distances between mean answers are small.
  wide = logits[rows].astype(np.float64)
  odds = np.exp(wide - wide.max(axis=1, keepdims=True))
  return (odds / odds.sum(axis=1, keepdims=True)).mean(axis=0)


def _discriminator_accuracy(
  context: Context[World],
  logits: Num[np.ndarray, 'n k'],
  forget_class: int,
  groups: ClassGroups,
  near: Bool[np.ndarray, 'n'],
) -> float:
  """Computes how well logits separate the class from its nearest class."""
  return audits.discriminator_accuracy(
    # The same folds for all networks, so that gaps come from logits alone.
    rng.fold_in(0, 'folds'),
    logits,
    groups.unseen,
    near,
    forget_class,
    context.config.evaluate.folds,
  )


def measure_reference(
  context: Context[World],
  logits: Num[np.ndarray, 'r n k'],
  forget_class: int,
  validation: bool,
) -> Reference:
  """Measures the retrained networks, which others are compared with.

  The unseen images are V for choices (`validation`), else T.
  """
  groups = split_pool(context.world, forget_class, validation)
  # All networks vote, so that each is compared on the same classes.
  nearest = audits.nearest_class(
    logits[:, groups.unseen].argmax(axis=-1), forget_class
  )
  near = groups.others & (worlds.pool_labels(context.world) == nearest)
  accuracy = [
    _discriminator_accuracy(context, network, forget_class, groups, near)
    for network in logits
  ]
  answer = np.stack([_mean_answer(x, groups.unseen) for x in logits])
  return Reference(
    forget_class, nearest, groups, near, np.array(accuracy), answer
  )


def _compare(
  reference: Reference,
  accuracy: float,
  answer: Float[np.ndarray, 'k'],
  position: int | None,
) -> Info:
  """Computes the distances to retrained networks.

  `position` is that of a retrained network, which is compared with the others;
  None is a network of another kind.
  """
  mia_nn = audits.accuracy_gap(accuracy, reference.accuracy)
  variation = audits.total_variation_gap(answer, reference.answer)
  # A retrained network is compared with the mean of the others.
  if position is not None:
    means = audits.leave_one_out_means(reference.accuracy)
    return {
      'mia_nn_gap': float(abs(accuracy - means[position])),
      'mia_nn_floor': mia_nn.floor,
      'mia_nn_inside': None,
      'tv': float(variation.retrained[position]),
      'tv_floor': variation.floor,
      'tv_inside': None,
    }
  return {
    'mia_nn_gap': mia_nn.gap,
    'mia_nn_floor': mia_nn.floor,
    'mia_nn_inside': mia_nn.within_retrained,
    'tv': variation.gap,
    'tv_floor': variation.floor,
    'tv_inside': variation.within_retrained,
  }


def _memorization_areas(
  world: World, logits: Num[np.ndarray, 'n k'], groups: ClassGroups
) -> Info:
  """Computes how well loss and entropy tell D_F from unseen images."""
  areas = {}
  for name, signal in (
    ('loss_auc', 'log_likelihood'),
    ('entropy_auc', 'negative_entropy'),
  ):
    score = pool.compute_signal(world, signal, logits)
    areas[name] = audits.auc(score[groups.forget], score[groups.unseen])
  return areas


def measure(
  context: Context[World],
  logits: Num[np.ndarray, 'n k'],
  reference: Reference,
  position: int | None = None,
) -> Info:
  """Computes the numbers of a row.

  `position` is that of a retrained network among those of `reference`.

  Returns:
    retain_accuracy (ACC_r) and forget_accuracy (ACC_f) on unseen images, and
    with `train_` in front on D_R and D_F; mis, of D_F with D_R for members
    and unseen images of retained classes for others; nearest_class,
    mia_nn_accuracy, mia_nn_gap, tv, their floors and whether they are inside;
    answer, the mean probabilities on unseen images of the class, and
    forget_probability, that of the class itself; loss_auc and entropy_auc,
    which tell D_F from unseen images of the same class.

  References:
    arXiv 2506.20893, section 5.
  """
  world, groups = context.world, reference.groups
  hit = logits.argmax(axis=1) == worlds.pool_labels(world)
  accuracy = _discriminator_accuracy(
    context, logits, reference.forget_class, groups, reference.near
  )
  answer = _mean_answer(logits, groups.unseen)
  probability = pool.compute_signal(world, 'softmax', logits)
  # Unseen images of the class itself would be no control: no method
  # predicts it any more.
  attacked = pool.Groups(groups.forget, groups.retain, groups.others)
  return {
    'retain_accuracy': float(hit[groups.others].mean()),
    'forget_accuracy': float(hit[groups.unseen].mean()),
    'train_retain_accuracy': float(hit[groups.retain].mean()),
    'train_forget_accuracy': float(hit[groups.forget].mean()),
    'mis': pool.attack_confidence(context, probability, attacked),
    'nearest_class': reference.nearest,
    'mia_nn_accuracy': accuracy,
    **_compare(reference, accuracy, answer, position),
    'forget_probability': float(answer[reference.forget_class]),
    # Rounded, because there are as many as classes in every row.
    'answer': np.round(answer, 5).tolist(),
    **_memorization_areas(world, logits, groups),
  }


def statistics(
  context: Context[World],
  logits: Num[np.ndarray, '*r n k'],
  reference: Reference,
) -> dict[str, Float[np.ndarray, '*r m']]:
  """Computes the statistics of U-LiRA on forgotten images.

  They are the logit-scaled confidence in the class itself, and in its nearest
  class. The first one says nothing else where a method forbids the class.

  The logits on the pool may be of one network or of several.

  Returns:
    'own' and 'nearest', clipped to +-60.
  """
  rows = np.flatnonzero(reference.groups.forget)
  rows = rows[: context.config.evaluate.ulira_points]
  selected = jnp.asarray(logits[..., rows, :])
  confidence = jit.compile_cheaply(audits.logit_confidence)
  # A forbidden class has confidence minus infinity.
  limit, values = audits.CONFIDENCE_CLIP, {}
  classes = (reference.forget_class, reference.nearest)
  for name, label in zip(STATISTICS, classes, strict=True):
    labels = jnp.full(rows.size, label, jnp.int32)
    value = np.asarray(confidence(selected, labels), np.float64)
    values[name] = np.clip(value, -limit, limit)
  return values


def rounded_statistics(
  context: Context[World], logits: Num[np.ndarray, 'n k'], reference: Reference
) -> Info:
  """Computes the statistics of a network, rounded for its record."""
  values = statistics(context, logits, reference)
  return {name: np.round(x, 4).tolist() for name, x in values.items()}
