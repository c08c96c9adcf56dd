"""The world of an ensemble study: data, network, recipes, attack."""

import functools
import pathlib
from typing import Any, NamedTuple

import optax
from ml_collections import ConfigDict

from cmu_jax.core import jit, provenance, rng
from cmu_jax.core.types import Dataset, Network, Variables
from cmu_jax.robustness import attacks, spectral
from cmu_jax.robustness.attacks import Attack
from cmu_jax.robustness.spectral import Layer
from cmu_jax.studies.engine import binding, recipes
from cmu_jax.studies.ensembles import lotos, members, trs
from cmu_jax.studies.ensembles.members import Members, Regulariser
from cmu_jax.studies.ensembles.training import Recipe
from cmu_jax.training import train


class World(NamedTuple):
  """Data, network and trainings that all cells share."""

  dataset: Dataset
  digest: str
  network: Network
  layers: tuple[Layer, ...]
  # The training of each method; 'surrogate' trains a single network.
  recipes: dict[str, Recipe]
  steps: int  # of a training
  steps_per_epoch: int  # full batches of an epoch
  attack: Attack  # the attack of every measurement


def _regularisers(config: Any, group: Members) -> dict[str, Regulariser]:
  """Creates the term that each method adds to the loss."""
  independent = members.no_regulariser()
  penalty = lotos.lotos(
    group,
    strength=config.lotos.strength,
    mal=config.lotos.mal,
    clip=config.clip.bound,
    k=config.lotos.vectors,
    rounds=config.lotos.rounds,
    normaliser=config.lotos.normaliser,
  )
  return {
    'plain': independent,
    'clipped': independent,
    'lotos': penalty,
    'lotos_unclipped': penalty,
    'trs': trs.trs(group, tuple(config.input.std), **dict(config.trs)),
  }


def _recipes(
  config: Any, network: Network, layers: tuple[Layer, ...], images: int
) -> tuple[dict[str, Recipe], int]:
  """Builds the recipe of every method; returns the steps of a training too."""
  # LOTOS compares members by convolutions; a dense network has none.
  compared = tuple(x for x in layers if x.kind == 'conv') or layers
  group = members.stack_members(network.model, config.members, compared)
  single = members.stack_members(network.model, 1, compared)
  options = recipes.fit_options(config.train, images, 'train')
  size, plain = options.batch_size, options.optimizer
  clipped = optax.chain(
    plain,
    spectral.clip_spectral_norm(layers, config.clip.bound, config.clip.every),
  )
  by_method = {
    'surrogate': Recipe(
      single, members.no_regulariser(), plain, network.inputs, size
    )
  }
  terms = _regularisers(config, group)
  for method in config.methods:
    # `lotos_unclipped` is the penalty alone.
    optimizer = clipped if method in ('clipped', 'lotos') else plain
    by_method[method] = Recipe(
      group, terms[method], optimizer, network.inputs, size
    )
  return by_method, options.steps


def _check_attacks(config: Any, steps: int, images: int, test: int) -> None:
  """Refuses attacks that together take as long as no training may."""
  size = min(config.evaluate.batch_size, test)
  count = config.attack.steps
  train.check_length(
    f'config.attack.steps={count}', count * -(-test // size), size
  )
  if 'trs' in config.methods:
    # TRS attacks every batch of the training.
    count = config.trs.steps
    batch = min(config.train.batch_size, images)
    train.check_length(f'config.trs.steps={count}', count * steps, batch)


def load(config: ConfigDict, folder: pathlib.Path | None = None) -> World:
  """Loads the data and binds networks, recipes and the attack.

  Raises:
    UserError: bad data or settings, in one line.
  """
  del folder
  dataset = binding.load(config).dataset
  network = binding.make_network(config, dataset)
  image = network.inputs.eval(dataset.train.image[:1], None)
  layers = tuple(
    layer
    for layer in spectral.find_model_layers(network.model, image)
    if layer.kind in ('conv', 'dense')
  )
  images = dataset.train.label.shape[0]
  by_method, steps = _recipes(config, network, layers, images)
  _check_attacks(config, steps, images, dataset.test.label.size)
  # The settings give the step as a share of the radius.
  radius = config.attack.radius
  return World(
    dataset,
    provenance.dataset_digest(dataset),
    network,
    layers,
    by_method,
    steps,
    max(1, images // min(config.train.batch_size, images)),
    attacks.pgd(
      radius, steps=config.attack.steps, step=config.attack.step * radius
    ),
  )


def initial_variables(world: World, method: str, seed: int) -> Variables:
  """Initialises all members; equal for all methods of a seed."""
  image = world.network.inputs.eval(world.dataset.train.image[:1], None)
  name = 'surrogate' if method == 'surrogate' else 'init'
  init = world.recipes[method].members.init
  return jit.compile_cheaply(init)(rng.fold_in(seed, name), image)


@functools.lru_cache(maxsize=8)
def _compile_norms(group: Members, layers: tuple[Layer, ...]) -> Any:
  def member_norms(member, variables):
    # Layers are those of the kind, the same for all members.
    del member
    return [
      spectral.power_qr(
        rng.fold_in(0, layer.path),
        spectral.bind_layer(layer, variables),
        layer.shape,
        iterations=200,
      ).sigma[0]
      for layer in layers
    ]

  return jit.compile_cheaply(
    lambda variables: group.map(member_norms, variables)
  )


def largest_layer_norm(
  world: World, method: str, variables: Variables
) -> float:
  """Computes the largest spectral norm of a layer, from fresh starts."""
  # The vectors that clipping carries along would confirm their own error.
  norms = _compile_norms(world.recipes[method].members, world.layers)
  return max(float(sigma.max()) for sigma in norms(variables))
