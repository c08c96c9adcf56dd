"""From the settings of a sweep to its problems, one a seed.

Everything is drawn here, once and before any training. Validation images, which
selection may use, are parted from reported images with a key of their own: all
seeds report on the same images, unless validation comes out of the training
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
  """Data and network, which all seeds of one manipulation share.

  Attributes:
    manipulation: 'poison' or 'interclass'.
    dataset: train and test split.
    model: the network.
    inputs: raw pixels to network input, trigger included.
    trigger: the backdoor, or None.
    pair: the confused classes, or None.
    target: the class that poison becomes, or None.
    audit: whether an audit looks for the wrong labels of S_m.
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
  """The problem of a seed, and the images of its report.

  Attributes:
    key: of this seed.
    problem: of which methods receive parts.
    reported: test images with true labels; nothing is chosen on them.
    expected: for each image of S_m, the mean difference of two wrong logits in
      networks that never saw S_m, see `references`; None without them.
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
    trigger = binding.make_trigger(
      config.poison, config.input, dataset.train.image
    )
  else:
    first, second = class_maps.parse_class_pair(
      config.interclass.pair, dataset.class_names, 'interclass.pair'
    )
    pair = (first, second)
  # Stored images have no trigger: the input step paints it.
  step = binding.make_inputs(config.input, dataset, trigger)
  model = binding.make_model(config.model, dataset, step)
  checks.check_label_audit(config, dataset.num_classes)
  audit = bool(config.audit)
  return World(manipulation, dataset, model, step, trigger, pair, target, audit)


def _split(
  config: ConfigDict, seed: int, dataset: Dataset
) -> tuple[Batch, Batch, Batch]:
  """Splits off validation images: training, validation, reported images."""
  train, test, classes = dataset.train, dataset.test, dataset.num_classes
  if config.validation == 'train_fifth':
    key = rng.fold_in(rng.fold_in(seed), 'validation')
    validation, train = splits.hold_out(key, train, 0.2, classes)
    return train, validation, test
  if config.validation == 'test_half':
    # The same half for all seeds: they report on the same images.
    key = rng.fold_in(0, 'validation')
    validation, test = splits.hold_out(key, test, 0.5, classes)
    return train, validation, test
  return train, test, test


def _draw_pair(
  config: ConfigDict, key: PRNGKey, label: np.ndarray, pair: tuple, size: int
) -> Int[np.ndarray, 'm']:
  """Draws size / 2 samples of each class, or takes the first ones."""
  fewest = min(int((label == c).sum()) for c in pair)
  errors.check(
    size // 2 <= fewest,
    f'config.interclass.sizes has {size}, half of each class, but a class has '
    f'{fewest} training images; use {2 * fewest} or less',
  )
  if config.interclass.choice == 'first':
    return label_noise.first_of_each(label, pair, size // 2)
  rank = splits.shuffled_rank(key, label)
  chosen = [np.flatnonzero((label == c) & (rank < size // 2)) for c in pair]
  return np.concatenate(chosen)


def _manipulate(
  config: ConfigDict, key: PRNGKey, shared: World, label: np.ndarray, size: int
) -> tuple[Corruption, Int[np.ndarray, 'm']]:
  """Draws the manipulation of a training split, and lists S_m in order."""
  if shared.pair is not None:
    index = _draw_pair(config, key, label, shared.pair, size)
    pair = corruption.interclass(key, label, 1.0, shared.pair, indices=index)
    return pair, index
  errors.check(
    size <= label.size,
    f'config.poison.sizes has {size}, but there are {label.size} training '
    'images',
  )
  # The released sets are those of a legacy generator of NumPy.
  released = config.published_indices
  poison = corruption.KINDS['poison'].draw(
    key,
    label,
    None,
    shared.trigger,
    shared.target,
    include_target=True,  # S_m may hold images of the target class
    **(
      {'indices': corruption.legacy_indices(0, label.size, size)}
      if released
      else {'count': size}
    ),
  )
  return poison, np.flatnonzero(np.asarray(poison.mask))


def _rank(
  config: ConfigDict, key: PRNGKey, listed: np.ndarray, size: int
) -> Int[np.ndarray, 'n']:
  """Ranks every sample in the order of identification."""
  if config.published_indices:
    order = corruption.legacy_indices(0, listed.size, listed.size)
  else:
    order = np.argsort(splits.shuffled_rank(key, np.zeros(listed.size, int)))
  # -1: no sample outside S_m is ever identified.
  rank = np.full(size, -1)
  rank[listed[order]] = np.arange(listed.size)
  return rank


def _corrupt_proxy(key: PRNGKey, shared: World, pool: Batch) -> Proxy:
  """Corrupts held-out images in full."""
  facts = (
    {'trigger': shared.trigger, 'target': shared.target}
    if shared.pair is None
    else {'pair': shared.pair}
  )
  classes = shared.dataset.num_classes
  return proxy_sets.make_proxy(
    key, shared.manipulation, pool, 1, classes, **facts
  )


def draw_scene(
  config: ConfigDict, shared: World, size: int, seed: int
) -> Scene:
  """Draws the problem of a seed.

  Raises:
    UserError: more samples are to be manipulated than there are.
  """
  key = rng.fold_in(seed, shared.manipulation)
  train, validation, reported = _split(config, seed, shared.dataset)
  proxy, pool = None, None
  # Before the manipulation, because a developer's proxy is not of S_m.
  if config.proxy_fraction:
    pool, train = splits.hold_out(
      rng.fold_in(seed, 'proxy'),
      train,
      config.proxy_fraction,
      shared.dataset.num_classes,
    )
    proxy = _corrupt_proxy(rng.fold_in(key, 'proxy'), shared, pool)
  truth = np.asarray(train.label)
  drawn, listed = _manipulate(
    config, rng.fold_in(key, 'manipulate'), shared, truth, size
  )
  rank = _rank(config, rng.fold_in(key, 'identify'), listed, truth.size)
  batch = corruption.apply(drawn, train)
  # Methods join parts of the split, so that all need the same fields.
  if shared.trigger is not None and batch.has_trigger is None:
    batch = batch._replace(has_trigger=jnp.zeros(truth.size, bool))
  problem = Problem(batch, truth, rank, proxy, pool, validation)
  return Scene(key, problem, reported)
