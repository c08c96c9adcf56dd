"""What all cells of a run on ensembles share: data, members, recipes."""

import functools
import pathlib
from typing import Any, NamedTuple

import optax
from ml_collections import ConfigDict

from cmu_jax.core import config as config_lib
from cmu_jax.core import jit, provenance, rng
from cmu_jax.core.types import Dataset, InputStep, Model, Network, Variables
from cmu_jax.robustness import attacks, spectral
from cmu_jax.robustness.attacks import Attack
from cmu_jax.robustness.spectral import Layer
from cmu_jax.studies.engine import binding, recipes
from cmu_jax.studies.ensembles import lotos, members, regulariser, settings, trs
from cmu_jax.studies.ensembles.members import Members
from cmu_jax.studies.ensembles.regulariser import Regulariser
from cmu_jax.studies.ensembles.training import Recipe

_VERSION = 1
_NETWORK = (
  'dataset',
  'image_size',
  'train_limit',
  'test_limit',
  'members',
  'model',
  'input',
  'train',
)
# What a method reads of the config, beyond what all of them do.
_READS = {
  'surrogate': (),
  'plain': (),
  'clipped': ('clip',),
  'lotos': ('clip', 'lotos'),
  'lotos_unclipped': ('clip', 'lotos'),
  'trs': ('trs',),
}


class Place(NamedTuple):
  """What all cells share.

  Attributes:
    config: every setting.
    folder: the work folder.
    dataset: train and test split.
    summed: digest of the data.
    inputs: raw pixels to network input.
    model: one network.
    layers: its convolutions and dense layers.
    recipes: how each method trains; 'surrogate' trains one network alone.
    steps: of a training.
    attack: that everything is measured by.
  """

  config: ConfigDict
  folder: pathlib.Path
  dataset: Dataset
  summed: str
  inputs: InputStep
  model: Model
  layers: tuple[Layer, ...]
  recipes: dict[str, Recipe]
  steps: int
  attack: Attack


def _terms(config: Any, group: Members) -> dict[str, Regulariser]:
  """What each method adds to the loss."""
  apart = regulariser.nothing()
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
    'plain': apart,
    'clipped': apart,
    'lotos': penalty,
    'lotos_unclipped': penalty,
    'trs': trs.trs(group, tuple(config.input.std), **dict(config.trs)),
  }


def _recipes(
  config: Any, network: Network, layers: tuple[Layer, ...], n: int
) -> tuple[dict[str, Recipe], int]:
  convolutions = tuple(x for x in layers if x.kind == 'conv') or layers
  group = members.alike(network.model, config.members, convolutions)
  alone = members.alike(network.model, 1, convolutions)
  options = recipes.fit_options(config.train, n, 'train')
  plain = options.optimizer
  bounded = optax.chain(
    plain,
    spectral.clip_spectral_norm(layers, config.clip.bound, config.clip.every),
  )
  size = options.batch_size
  made = {
    'surrogate': Recipe(
      alone, regulariser.nothing(), plain, network.inputs, size
    )
  }
  terms = _terms(config, group)
  for method in config.methods:
    optimizer = bounded if method in ('clipped', 'lotos') else plain
    made[method] = Recipe(group, terms[method], optimizer, network.inputs, size)
  return made, options.steps


def load(config: ConfigDict, folder: pathlib.Path) -> Place:
  """Checks the settings, loads the data and binds everything.

  Raises:
    UserError: bad data or settings, in one line.
  """
  settings.check(config)
  dataset = binding.load(config).dataset
  inputs = binding.pixels(config.input, dataset, None)
  model = binding.network(config.model, dataset, inputs)
  blank = inputs.eval(dataset.train.image[:1], None)
  found = spectral.find_model_layers(model, blank)
  layers = tuple(x for x in found if x.kind in ('conv', 'dense'))
  count = dataset.train.label.shape[0]
  made, steps = _recipes(config, Network(model, inputs), layers, count)
  radius = config.attack.radius
  attack = attacks.pgd(
    radius, steps=config.attack.steps, step=config.attack.step * radius
  )
  return Place(
    config,
    folder,
    dataset,
    provenance.dataset_digest(dataset),
    inputs,
    model,
    layers,
    made,
    steps,
    attack,
  )


def address(place: Place, method: str, seed: int, measured: bool) -> str:
  """What a training depends on, or what its measurements do."""
  config = place.config
  also = ('attack', 'threats', 'evaluate') if measured else ()
  return config_lib.fingerprint(
    {
      'version': _VERSION,
      'data': place.summed,
      'method': method,
      'seed': seed,
      **{name: config[name] for name in (*_NETWORK, *_READS[method], *also)},
    }
  )


def start(place: Place, method: str, seed: int) -> Variables:
  """Members as initialised; the same for all methods of a seed."""
  image = place.inputs.eval(place.dataset.train.image[:1], None)
  name = 'surrogate' if method == 'surrogate' else 'init'
  init = place.recipes[method].members.init
  return jit.compile_cheaply(init)(rng.fold_in(seed, name), image)


@functools.lru_cache(maxsize=8)
def _norms(group: Members, layers: tuple[Layer, ...]) -> Any:
  def each(one, own):
    del one
    return [
      spectral.power_qr(
        rng.fold_in(0, layer.path),
        spectral.bind_layer(layer, own),
        layer.shape,
        iterations=200,
      ).sigma[0]
      for layer in layers
    ]

  return jit.compile_cheaply(lambda variables: group.map(each, variables))


def largest_norm(place: Place, method: str, variables: Variables) -> float:
  """The largest norm of a layer of a member, from fresh starts."""
  run = _norms(place.recipes[method].members, place.layers)
  return max(float(found.max()) for found in run(variables))
