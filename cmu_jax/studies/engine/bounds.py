"""Trainings with bounded spectral norms.

The original, Retrain and the references are trained under the bound. Methods
fine-tune without it, because their steps are scaled by the learning rate
afterwards; their rows have the largest norm.

References:
  AMUN, arXiv 2503.00917, Theorem 4.1 and Tables 3 and 6: its bound on how far
  AMUN ends from Retrain grows with the Lipschitz constant.
"""

import functools

import jax
import optax
from ml_collections import ConfigDict

from cmu_jax.core import errors, rng
from cmu_jax.core.types import Model, Training, Variables
from cmu_jax.robustness import spectral
from cmu_jax.robustness.spectral import Layer
from cmu_jax.studies.engine import recipes

Layers = tuple[Layer, ...]


def find_layers(config: ConfigDict, model: Model, image: jax.Array) -> Layers:
  """Finds the layers to bound: convolutions and dense layers, or none.

  A bound of 0 is none.

  Raises:
    UserError: the network has BatchNorm, which would undo the bound.
  """
  bound = config.clip.bound
  if not bound:
    return ()
  layers = spectral.find_model_layers(model, image)
  norms = [layer for layer in layers if layer.kind == 'norm']
  errors.check(
    not norms,
    f'config.clip.bound is {bound}, but {config.model.name} has BatchNorm '
    f'({len(norms)} layers), which scales norms up again; set '
    'config.model.norm=none where the network has it, or another network',
  )
  return layers


def bounded_training(
  config: ConfigDict, layers: Layers, images: int
) -> Training:
  """Builds the training of config.train, under the bound."""
  training = recipes.fit_options(config.train, images, 'train')
  if not layers:
    return training
  clip = config.clip
  optimizer = _bound_optimizer(
    training.optimizer, layers, clip.bound, clip.every
  )
  return training._replace(optimizer=optimizer)


@functools.lru_cache(maxsize=16)
def _bound_optimizer(
  optimizer: optax.GradientTransformation,
  layers: Layers,
  bound: float,
  every: int,
) -> optax.GradientTransformation:
  # One object for equal settings, so that trainings share a compilation.
  return optax.chain(
    optimizer, spectral.clip_spectral_norm(layers, bound, every)
  )


def largest_norm(layers: Layers, variables: Variables) -> float | None:
  """Measures the largest norm of the bounded layers; None without layers."""
  if not layers:
    return None
  # Fresh power iterations, not the vectors that the training kept.
  key = rng.fold_in(0, 'norms')
  measured = spectral.measure_layers(key, layers, variables)
  return max(float(layer.sigma) for layer in measured)
