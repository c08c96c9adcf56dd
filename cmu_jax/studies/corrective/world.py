"""From the settings of a sweep to its problems, one a seed.

Everything is drawn here, once and before any training. What selection may look
at (validation) and what is reported are parted first, with a key of their own:
all seeds report on the same images unless validation comes out of the training
split.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from cmu_jax.core import errors, rng
from cmu_jax.core.types import (
  Batch,
  Corruption,
  Dataset,
  Info,
  InputStep,
  Model,
  Network,
  PRNGKey,
  Proxy,
  Trigger,
)
from cmu_jax.data import corruption, proxy_sets, splits
from cmu_jax.data.corruption import class_maps, label_noise
from cmu_jax.studies.corrective.problem import Problem
from cmu_jax.studies.engine import binding, checks


class World(NamedTuple):
  """What all seeds of one manipulation share.

  Attributes:
    manipulation: 'poison' or 'interclass'.
    dataset: train and test split.
    model: the network.
    inputs: raw pixels to network input, trigger included.
    trigger: the backdoor, or None.
    pair: the confused classes, or None.
    target: the class that poison becomes, or None.
    audit: whether S_m's wrong labels are asked after.
  """

  manipulation: str
  dataset: Dataset
  model: Model
  inputs: InputStep
  trigger: Trigger | None
  pair: tuple[int, int] | None
  target: int | None
  audit: bool = False

  @property
  def network(self) -> Network:
    return Network(self.model, self.inputs)


class Scene(NamedTuple):
  """One seed: the problem, and what is reported.

  Attributes:
    key: of this seed.
    problem: what the methods work on.
    reported: test images with true labels; nothing is chosen on them.
    expected: what networks that never saw S_m make of two wrong labels of each
      of its images, see `references`; None without them.
  """

  key: PRNGKey
  problem: Problem
  reported: Batch
  expected: Float[np.ndarray, 'm'] | None = None


def bind_world(
  config: ConfigDict, dataset: Dataset, manipulation: str
) -> World:
  """Binds network and input step for one manipulation.

  Raises:
    UserError: a target or pair that the dataset does not have.
  """
  trigger = pair = target = None
  if manipulation == 'poison':
    target = config.poison.target
    binding.check_class('poison.target', target, dataset)
    trigger = binding.trigger(config.poison, config.input, dataset.train.image)
  else:
    first, second = class_maps.parse_class_pair(
      config.interclass.pair, dataset.class_names, 'interclass.pair'
    )
    pair = (first, second)
  step = binding.pixels(config.input, dataset, trigger)
  model = binding.network(config.model, dataset, step)
  asked = bool(config.audit)
  checks.check_label_audit(config, dataset.num_classes)
  return World(manipulation, dataset, model, step, trigger, pair, target, asked)


def _validation(
  config: ConfigDict, key: PRNGKey, dataset: Dataset
) -> tuple[Batch, Batch, Batch]:
  """Training, validation and reported images."""
  train, test, classes = dataset.train, dataset.test, dataset.num_classes
  if config.validation == 'train_fifth':
    held, rest = splits.hold_out(
      rng.fold_in(key, 'validation'), train, 0.2, classes
    )
    return rest, held, test
  if config.validation == 'test_half':
    held, rest = splits.hold_out(
      rng.fold_in(0, 'validation'), test, 0.5, classes
    )
    return train, held, rest
  return train, test, test


def training(config: ConfigDict, key: PRNGKey, dataset: Dataset) -> Batch:
  """The training images that are left when validation is taken out."""
  return _validation(config, key, dataset)[0]


def _pair_indices(
  config: ConfigDict, key: PRNGKey, label: np.ndarray, pair: tuple, size: int
) -> Int[np.ndarray, 'm']:
  """size / 2 samples of each class: the first ones, or random ones."""
  fewest = min(int((label == c).sum()) for c in pair)
  errors.check(
    size // 2 <= fewest,
    f'config.interclass.sizes has {size}, half of each class, but a class has '
    f'{fewest} training images; use {2 * fewest} or less',
  )
  if config.interclass.choice == 'first':
    return label_noise.first_of_each(label, pair, size // 2)
  rank = splits.shuffled_rank(key, label)
  where = [np.flatnonzero((label == c) & (rank < size // 2)) for c in pair]
  return np.concatenate(where)


def _manipulated(
  config: ConfigDict, key: PRNGKey, one: World, label: np.ndarray, size: int
) -> tuple[Corruption, Int[np.ndarray, 'm']]:
  """The manipulation of a training split, and S_m in the order it is listed."""
  if one.manipulation == 'interclass':
    assert one.pair is not None
    index = _pair_indices(config, key, label, one.pair, size)
    drawn = corruption.interclass(key, label, 1.0, one.pair, indices=index)
    return drawn, index
  errors.check(
    size <= label.size,
    f'config.poison.sizes has {size}, but there are {label.size} training '
    'images',
  )
  chosen: Info = {'count': size}
  if config.published_indices:
    chosen = {'indices': corruption.legacy_indices(0, label.size, size)}
  drawn = corruption.KINDS['poison'].draw(
    key,
    label,
    None,
    one.trigger,
    one.target,
    include_target=True,
    **chosen,
  )
  return drawn, np.flatnonzero(np.asarray(drawn.mask))


def _rank(
  config: ConfigDict, key: PRNGKey, listed: np.ndarray, size: int
) -> Int[np.ndarray, 'n']:
  """The place of every sample in the order of identification."""
  if config.published_indices:
    order = corruption.legacy_indices(0, listed.size, listed.size)
  else:
    order = np.argsort(splits.shuffled_rank(key, np.zeros(listed.size, int)))
  rank = np.full(size, -1)
  rank[listed[order]] = np.arange(listed.size)
  return rank


def _proxies(
  config: ConfigDict, key: PRNGKey, one: World, pool: Batch
) -> tuple[Proxy, Batch]:
  """Held-out images, corrupted in full and as they are."""
  classes = one.dataset.num_classes
  facts = (
    {'pair': one.pair}
    if one.manipulation == 'interclass'
    else {'trigger': one.trigger, 'target': one.target}
  )
  made = proxy_sets.make_proxy(key, one.manipulation, pool, 1, classes, **facts)
  return made, pool


def draw_scene(config: ConfigDict, one: World, size: int, seed: int) -> Scene:
  """Draws what one seed works on.

  Raises:
    UserError: more samples are to be manipulated than there are.
  """
  key = rng.fold_in(seed, one.manipulation)
  train, validation, reported = _validation(
    config, rng.fold_in(seed), one.dataset
  )
  held, clean_proxy = None, None
  if config.proxy_fraction:
    pool, train = splits.hold_out(
      rng.fold_in(seed, 'proxy'),
      train,
      config.proxy_fraction,
      one.dataset.num_classes,
    )
    held, clean_proxy = _proxies(config, rng.fold_in(key, 'proxy'), one, pool)
  truth = np.asarray(train.label)
  drawn, listed = _manipulated(
    config, rng.fold_in(key, 'manipulate'), one, truth, size
  )
  rank = _rank(config, rng.fold_in(key, 'identify'), listed, truth.size)
  batch = corruption.apply(drawn, train)
  if one.trigger is not None and batch.has_trigger is None:
    batch = batch._replace(has_trigger=jnp.zeros(truth.size, bool))
  problem = Problem(batch, truth, rank, held, clean_proxy, validation)
  return Scene(key, problem, reported)
