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

# Array of the true labels in the published archives.
_CLEAN = 'clean_label'


def human(
  key: PRNGKey,
  label: Labels,
  rate: float | None,
  human: Integer[np.ndarray, 'm'],
) -> Corruption:
  """Replaces labels by those that people gave.

  Args:
    key: determines the samples, if there is a rate.
    label: true labels [n].
    rate: share of all n samples that get a wrong label, drawn from those that
      people labelled wrongly; None for all of them.
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
  """Uses the images that people labelled wrongly, with those labels."""
  # No rule is published for human noise. This is our choice, by analogy with
  # asymmetric noise: images with a correct label are left out.
  people = kind.require(human, 'human', 'the human labels of its pool')
  return HUMAN.draw(key, label, None, people)


def _human_arguments(settings: ConfigDict, facts: DatasetFacts) -> Info:
  """Reads config.corruption.labels_key of labels_file.

  Labels are in the order of the source, CIFAR's original order for example. If
  the archive has true labels too ('clean_label'), they must be the dataset's.
  """
  name, setting = settings.labels_key, 'config.corruption.labels_file'
  arrays = kind.read_arrays(
    settings.labels_file, {name: True, _CLEAN: False}, 'labels_file'
  )
  size, k = facts.label.size, len(facts.class_names)
  for array, values in arrays.items():
    errors.check(
      values.shape == (size,) and values.dtype.kind in 'iu',
      f"{setting}: '{array}' is {values.dtype} of shape {values.shape}; the "
      f'training split has {size} images and needs an integer for each',
    )
    errors.check(
      values.min() >= 0 and values.max() < k,
      f"{setting}: '{array}' has labels from {values.min()} to "
      f'{values.max()}; the dataset has classes 0 to {k - 1}',
    )
  # The only way to notice an archive in another order of samples.
  differing = np.flatnonzero(arrays.get(_CLEAN, facts.label) != facts.label)
  errors.check(
    not differing.size,
    f"{setting}: '{_CLEAN}' differs from the dataset in {differing.size} of "
    f'{size} images, first in image {differing[:1].sum()}; is the file for '
    'another dataset or order?',
  )
  # The file determines the rate.
  return {'rate': None, 'human': arrays[name].astype(np.int32)}


HUMAN = Kind(human, _human_proxy, _human_arguments, per_sample=('human',))
