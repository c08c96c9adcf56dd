"""The methods that `subsets` and `membership` offer, bound to a config.

Names, variants and descriptions are those of `methods.study_names`. All methods
fine-tune for the same epochs and have the same grid of learning rates.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cmu_jax.core.types import Method, Network
from cmu_jax.methods import catalogue, factories, study_names
from cmu_jax.studies.engine import bounds, recipes


class Sizes(NamedTuple):
  """The numbers of images in D_R and in D_F."""

  retain: int
  forget: int


class Entry(NamedTuple):
  """A method that a study offers."""

  # (network, training) -> Method; (network) without a training.
  make: Callable[..., Method]
  epoch: Callable[[Sizes], int]  # Sizes -> the number of images in an epoch
  part: str  # the settings of its training; '' for a method that does not train
  says: str  # a description, in the words of the study
  # Whether it is prepared on the network of another seed.
  transferred: bool = False


# One point a learning rate: weights and strengths would only multiply it.
_OPTIONS: dict[str, dict[str, Any]] = {
  'random_label': {'weights': (1.0,)},
  'gradient_ascent': {'strengths': (1.0,)},
  'l1_sparse': {'penalties': (5e-4,)},
}
_UNIONS = ('alternating_ascent', 'boundary_shrink', 'redrawn_label')


def _epoch_size(name: str, sizes: Sizes) -> int:
  """The number of images in an epoch of a method, by its canonical name."""
  entry = catalogue.ENTRIES[name]
  base = entry.base or name
  retain = sizes.retain if 'retain' in entry.needs else 0
  if base in ('amun', 'amun_ffgsm'):
    # Adversarial images are as many as those of D_F.
    sets = entry.options.get('sets', ('retain', 'forget', 'adversarial'))
    return retain + sizes.forget * sum(name != 'retain' for name in sets)
  if base in _UNIONS:
    return retain + sizes.forget
  # An epoch is a pass over D_R, with batches of D_F beside it.
  return retain or sizes.forget


def entry(
  study: str, name: str, part: str = 'unlearn', **options: Any
) -> Entry:
  """Binds a method of the catalogue to the settings of a study.

  Args:
    study: a key of `study_names.NAMES`.
    name: canonical.
    part: the settings of its training; '' for none.
    **options: of its factory.
  """
  factory = factories.factory(name)
  base = catalogue.ENTRIES[name].base or name
  return Entry(
    functools.partial(factory, **_OPTIONS.get(base, {}), **options),
    functools.partial(_epoch_size, name),
    part,
    study_names.describe(study, study_names.NAMES[study][name]),
    'transferred' in name,
  )


_NAMES = study_names.NAMES[study_names.SUBSETS]
ENTRIES: dict[str, Entry] = {
  alias: entry(
    study_names.SUBSETS, name, 'train' if name == 'retrain' else 'unlearn'
  )
  for name, alias in _NAMES.items()
  if name != 'none'
}
# RL and SalUn as AMUN's tables have them; other ways to D_A; other elements in
# place of D_A.
PARITY = tuple(name for name in ENTRIES if '_redrawn' in name)
VARIANTS = tuple(
  name for name in ENTRIES if '_ffgsm' in name or '_transferred' in name
)
ABLATION = tuple(name for name in ENTRIES if name.startswith('set_'))
DEFAULT = tuple(
  name
  for name in ENTRIES
  if name not in ('retrain', *PARITY, *VARIANTS, *ABLATION)
)


def make(
  config: ConfigDict,
  network: Network,
  sizes: Sizes,
  name: str,
  entries: dict[str, Entry] = ENTRIES,
  bounded: bounds.Layers = (),
) -> Method:
  """Makes a method with its grid: one point a learning rate.

  `bounded` are the layers whose norms config.train bounds.
  """
  offered = entries[name]
  if not offered.part:
    return offered.make(network)
  images = offered.epoch(sizes)
  training = (
    bounds.bounded_training(config, bounded, images)
    if offered.part == 'train'
    else recipes.fit_options(config[offered.part], images, offered.part)
  )
  # Sets of a small run may be smaller than a batch.
  batch_size = min(training.batch_size, images)
  method = offered.make(network, training._replace(batch_size=batch_size))
  # Retraining takes the rate of config.train.
  if name == 'retrain':
    return method
  grid = tuple(
    {**point, 'learning_rate': float(rate)}
    for point in method.grid
    for rate in config.learning_rates
  )
  return method._replace(grid=grid)


def count_images(
  config: ConfigDict,
  sizes: Sizes,
  name: str,
  points: int,
  entries: dict[str, Entry] = ENTRIES,
) -> float:
  """Counts the images that a method trains on at `points` of its grid.

  Searches of adversarial images and the like are not counted.
  """
  # Doing nothing is no method.
  if name not in entries or not entries[name].part:
    return 0.0
  part, images = entries[name].part, entries[name].epoch(sizes)
  return points * recipes.count_images(config[part], images, part)


def describe_inputs(name: str, method: Method) -> str:
  """Describes the inputs of a method, such as 'weights + D_F'."""
  words = study_names.SYMBOLS[study_names.SUBSETS]
  inputs = [text for name, text in words.items() if name in method.needs]
  return ' + '.join([*(['weights'] if name != 'retrain' else []), *inputs])


def describe(name: str, entries: Mapping[str, Entry] = ENTRIES) -> str:
  """Describes a method in a few words."""
  return 'nothing' if name == 'none' else entries[name].says
