"""Pictures of a request, compared with each other and with the network.

Mistakes of this kind give wrong numbers and no error: classes in another order,
or the same picture in two sets that must not share any.
"""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from cmu_jax.core import errors
from cmu_jax.core.types import Batch
from cmu_jax.data import near_copies, splits
from cmu_jax.data.sources import common
from cmu_jax.networks import shipped
from cmu_jax.networks.shipped import ShippedNetwork
from cmu_jax.training import metrics

# Pictures of a set that the order of the classes is compared with: enough for
# any contradiction, and few enough for a large network on a CPU.
_COMPARED = 200
# Flag of a set -> the reason why it must not share pictures with others.
_REASONS = {
  '--retain': 'pictures to forget cannot be pictures to keep',
  '--test': 'they measure the result, so nothing else may use them',
  '--ordinary': 'ordinary pictures have no trigger',
  '--data': 'each picture must be in half of the references',
  '--members': 'each picture must be in half of the references',
  '--nonmembers': 'each picture must be in half of the references',
}
Images = UInt8[Any, '_ h w c']


class PictureSet(NamedTuple):
  """All pictures of a folder or archive, in the order of its files.

  Attributes:
    root: the folder or archive.
    image: raw pixels.
    has_classes: the subfolders are classes.
  """

  root: str
  image: Images
  has_classes: bool = True


def check_classes(
  network: ShippedNetwork, sets: Mapping[str, Batch | None]
) -> dict[str, np.ndarray]:
  """Compares the order of the classes with the network's answers.

  Args:
    network: as shipped.
    sets: flag -> pictures with true labels, or with those of the training.

  Returns:
    Flag -> classes that the network predicts, for `readings.check_labelled`;
    {} for a network whose order nothing contradicts.

  Raises:
    UserError: the network is far better in another order than the assumed one.
  """
  # The head of a CLIP is made of the names: no order contradicts it.
  if network.reader is not None:
    return {}
  answers, labels, predicted = {}, [], []
  for flag, batch in sets.items():
    if batch is None:
      continue
    # All pictures of a set: later checks need the others too.
    answers[flag] = metrics.predict(
      network.classifier, network.variables, batch, 256
    )
    rows = _few_of_each(np.asarray(batch.label))
    labels.append(np.asarray(batch.label)[rows])
    predicted.append(answers[flag][rows])
  if answers:
    label = np.concatenate(labels)
    origin = f'{label.size} pictures of {" and ".join(answers)}'
    shipped.check_order(network.order, label, np.concatenate(predicted), origin)
  return answers


def _few_of_each(label: Int[np.ndarray, 'n']) -> Int[np.ndarray, 'm']:
  """Chooses some pictures, as many of each class as possible."""
  rank = splits.rank_in_class(label, np.argsort(label, kind='stable'))
  return np.sort(np.lexsort((label, rank))[:_COMPARED])


def drop_copies(
  flag: str, batch: Batch | None, others: Mapping[str, Batch | None]
) -> Batch | None:
  """Takes out of a set the pictures that other sets have, pixel for pixel.

  Args:
    flag: of the set.
    batch: its pictures, or None.
    others: flag -> pictures, or None.

  Returns:
    The set without them. A line says how many were taken out.

  Raises:
    UserError: no picture is left.
  """
  if batch is None:
    return None
  images = {
    name: other.image for name, other in others.items() if other is not None
  }
  new = mark_new(flag, batch.image, images)
  return batch if new.all() else splits.take(batch, np.flatnonzero(new))


def mark_new(
  flag: str, image: Images, others: Mapping[str, Images]
) -> Bool[np.ndarray, 'n']:
  """Marks the pictures of a set that no other set has; see `drop_copies`."""
  digests = common.picture_digests(np.asarray(image))
  new = np.ones(len(digests), bool)
  for name, pictures in others.items():
    taken = set(common.picture_digests(np.asarray(pictures)))
    copies = np.array([digest in taken for digest in digests])
    if copies.any():
      _report(flag, int(copies.sum()), len(digests), f'in {name}')
    new &= ~copies
  errors.check(
    new.any(),
    f'every picture of {flag} is also in {" or ".join(others)}, and '
    f'{_REASONS[flag]}; give others',
  )
  return new


def drop_repeats(flag: str, batch: Batch) -> Batch:
  """Keeps one of the pictures of a set that are equal pixel for pixel."""
  digests = common.picture_digests(np.asarray(batch.image))
  # The dictionary keeps the earliest position of each digest.
  positions = {digest: i for i, digest in reversed(list(enumerate(digests)))}
  surplus = len(digests) - len(positions)
  if not surplus:
    return batch
  _report(flag, surplus, len(digests), f'elsewhere in {flag}')
  return splits.take(batch, np.sort(list(positions.values())))


def _report(flag: str, count: int, size: int, fact: str) -> None:
  errors.remark(
    f'Left out of {flag}: {count} of {size} pictures, which are also {fact}; '
    f'{_REASONS[flag]}.'
  )


def warn_of_near_copies(sets: Mapping[str, PictureSet | None]) -> None:
  """Warns of pictures that two sets share in another file format or size.

  They stay in, because the user alone can tell.

  Args:
    sets: flag -> all pictures as they were read, or None. A picture belongs
      into the earlier set.
  """
  present = [(flag, pictures) for flag, pictures in sets.items() if pictures]
  for (other_flag, others), (flag, pictures) in itertools.combinations(
    present, 2
  ):
    pairs = near_copies.find_near_copies(
      np.asarray(pictures.image), np.asarray(others.image)
    )
    if not len(pairs):
      continue
    files = (
      shipped.name_picture(s.root, int(row), s.has_classes)
      for s, row in zip((pictures, others), pairs[0], strict=True)
    )
    errors.remark(
      f'Warning: {len(pairs)} of {len(pictures.image)} pictures of {flag} look '
      f'like pictures of {other_flag}, resaved or resized: '
      f'{" and ".join(files)}. They stay in, but {_REASONS[flag]}.'
    )
