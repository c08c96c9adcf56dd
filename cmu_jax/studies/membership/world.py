"""The world of an audit: a pool of images, a network, and who sees what."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool
from ml_collections import ConfigDict

from cmu_jax.audits import shadow
from cmu_jax.core import errors, provenance, rng
from cmu_jax.core.types import Batch, Network, PRNGKey
from cmu_jax.data import splits
from cmu_jax.studies.engine import binding, pool

Marks = Bool[np.ndarray, 'k n']


class World(NamedTuple):
  """Data and network that all audited and reference networks share."""

  # Training and test split as one, an even number of images. Each network is
  # trained on a random half.
  pool: Batch
  digest: str
  network: Network


class Models(NamedTuple):
  """Networks with the points that each is trained on and is to forget."""

  name: str  # the same name and points are the same networks
  inside: Marks  # training points of each network
  forget: Marks  # the part of them that it is to forget

  @property
  def groups(self) -> dict[str, Marks]:
    """Points to forget, to retain, and without a part in training."""
    return {
      'forget': self.forget,
      'retain': self.inside & ~self.forget,
      'unseen': ~self.inside,
    }


def load(config: ConfigDict, folder: pathlib.Path | None = None) -> World:
  """Loads the data and binds the network.

  Raises:
    UserError: bad data or settings, in one line.
  """
  del folder
  dataset = binding.load(config).dataset
  network = binding.make_network(config, dataset)
  images = pool.join_batches(dataset.train, dataset.test)
  # Every two networks share out the pool, which therefore is even.
  size = images.label.shape[0] // 2 * 2
  images = splits.take(images, np.arange(size))
  count = forget_count(config, size)
  errors.check(
    0 < count < size // 2,
    f'config.fraction is {config.fraction}: of {size // 2} training images '
    f'that forgets {count}; leave one to forget and one to retain',
  )
  digest = provenance.digest(images.image, images.label)
  return World(images, digest, network)


def forget_count(config: ConfigDict, size: int) -> int:
  """Counts the points that a network trained on half of `size` forgets."""
  return round(config.fraction * (size // 2))


def draw_forget_sets(key: PRNGKey, inside: Marks, count: int) -> Marks:
  """Draws `count` of the training points of each network."""
  permute = lambda i: np.asarray(
    jax.random.permutation(rng.fold_in(key, i), inside.shape[1])
  )
  order = np.stack([permute(i) for i in range(len(inside))])
  # Training points come before all others, in a random order.
  rank = np.argsort(np.argsort(np.where(inside, order, order + order.size)))
  return rank < count


def _models(config: ConfigDict, name: str, inside: Marks) -> Models:
  count = forget_count(config, inside.shape[1])
  key = rng.fold_in(0, name, 'forget')
  return Models(name, inside, draw_forget_sets(key, inside, count))


def reference_models(config: ConfigDict, world: World) -> Models:
  """Draws K reference networks on halves of the pool."""
  size = world.pool.label.shape[0]
  key = rng.fold_in(0, 'references', 'members')
  inside = shadow.assign_halves(key, config.references, size)
  return _models(config, 'references', inside)


def audited_models(config: ConfigDict, world: World) -> Models:
  """Draws one audited network per seed, on half of the pool."""
  size = world.pool.label.shape[0]
  inside = np.stack(
    [
      shadow.assign_halves(rng.fold_in(seed, 'members'), 2, size)[0]
      for seed in config.seeds
    ]
  )
  return _models(config, 'audited', inside)
