"""Labels that people gave, such as CIFAR-10N and CIFAR-100N, from a file."""

import numpy as np
from jaxtyping import Integer
from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.core.types import Corruption, Info, PRNGKey
from cmu_jax.data import splits
from cmu_jax.data.corruption import kind
from cmu_jax.data.corruption.kind import DatasetFacts, Kind
from cmu_jax.data.splits import Labels

_CLEAN = 'clean_label'


def human(
  key: PRNGKey,
  label: Labels,
  rate: float | None,
  human: Integer[np.ndarray, 'm'],
) -> Corruption:
  """Replaces labels by those that people gave.

  Args:
    key: decides which samples, if there is a rate.
    label: true labels [n].
    rate: share of all n samples that get a wrong label, of those for which
      people gave one; None for all of them.
    human: the labels that people gave to the same samples.

  Raises:
    UserError: the sets differ in size, or people erred on fewer samples.

  References:
    Learning with Noisy Labels Revisited, arXiv 2110.12088.
  """
  host = np.asarray(label)
  errors.check(
    human.shape == host.shape,
    f'{human.size} human labels meet {host.size} samples; give one for each',
  )
  wrong = human != host
  if rate is not None:
    splits.check_rate(rate)
    count = splits.floor_share(rate, host.size)
    errors.check(
      count <= wrong.sum(),
      f'cannot corrupt {count} samples: {wrong.sum()} human labels are wrong; '
      'lower the rate',
    )
    wrong = kind.random_mask(key, wrong, count)
  return kind.make_corruption(np.where(wrong, human, host), wrong)


def _human_proxy(
  key: PRNGKey,
  label: Labels,
  num_classes: int,
  human: Integer[np.ndarray, 'm'] | None = None,
) -> Corruption:
  """The images that people labelled wrongly.

  No rule is published for human noise. This is our choice, by analogy with
  asymmetric noise: proxy images keep the labels that people gave to them, and
  those whose label is right are left out.
  """
  given = kind.require(human, 'human', 'the human labels of its pool')
  return HUMAN.draw(key, label, None, given)


def _human_arguments(settings: ConfigDict, known: DatasetFacts) -> Info:
  """config.corruption.labels_key of labels_file; the file decides the rate.

  Labels are in the order of the source, CIFAR's original order for example. If
  the archive has true labels too ('clean_label'), they must be the dataset's.
  """
  name, where = settings.labels_key, 'config.corruption.labels_file'
  found = kind.read_arrays(
    settings.labels_file, {name: True, _CLEAN: False}, 'labels_file'
  )
  size, k = known.label.size, len(known.class_names)
  for array, values in found.items():
    errors.check(
      values.shape == (size,) and values.dtype.kind in 'iu',
      f"{where}: '{array}' is {values.dtype} of shape {values.shape}; the "
      f'training split has {size} images and needs an integer for each',
    )
    errors.check(
      values.min() >= 0 and values.max() < k,
      f"{where}: '{array}' has labels from {values.min()} to {values.max()}; "
      f'the dataset has classes 0 to {k - 1}',
    )
  other = np.flatnonzero(found.get(_CLEAN, known.label) != known.label)
  errors.check(
    not other.size,
    f"{where}: '{_CLEAN}' differs from the dataset in {other.size} of {size} "
    f'images, first in image {other[:1].sum()}; is the file for another '
    'dataset or order?',
  )
  return {'rate': None, 'human': found[name].astype(np.int32)}


HUMAN = Kind(human, _human_proxy, _human_arguments, per_sample=('human',))
