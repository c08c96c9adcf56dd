"""Networks that are trained with bounded spectral norms.

The original, Retrain and the references learn under the bound. What unlearns
fine-tunes without it, as its steps are scaled by the learning rate afterwards;
its rows say where the norms end.

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


def layers(config: ConfigDict, model: Model, image: jax.Array) -> Layers:
  """What is to be bounded: convolutions and dense layers, or nothing.

  Args:
    config: `clip`; its bound is 0 for none.
    model: the network.
    image: as the network takes it, [1, h, w, c].

  Raises:
    UserError: the network has BatchNorm, which would undo the bound.
  """
  bound = config.clip.bound
  if not bound:
    return ()
  found = spectral.find_model_layers(model, image)
  free = [layer for layer in found if layer.kind == 'norm']
  errors.check(
    not free,
    f'config.clip.bound is {bound}, but {config.model.name} has BatchNorm '
    f'({len(free)} layers), which scales norms up again; set '
    'config.model.norm=none where the network has it, or another network',
  )
  return found


def training(config: ConfigDict, layers: Layers, images: int) -> Training:
  """The training of config.train, under the bound."""
  options = recipes.fit_options(config.train, images, 'train')
  if not layers:
    return options
  clip = config.clip
  bounded = _bounded(options.optimizer, layers, clip.bound, clip.every)
  return options._replace(optimizer=bounded)


@functools.lru_cache(maxsize=16)
def _bounded(
  optimizer: optax.GradientTransformation,
  layers: Layers,
  bound: float,
  every: int,
) -> optax.GradientTransformation:
  """One object for equal settings, so that trainings share a compilation."""
  return optax.chain(
    optimizer, spectral.clip_spectral_norm(layers, bound, every)
  )


def largest(layers: Layers, variables: Variables) -> float | None:
  """The largest norm of a bounded layer, from fresh starts; None for none."""
  if not layers:
    return None
  found = spectral.measure_layers(rng.fold_in(0, 'norms'), layers, variables)
  return max(float(one.sigma) for one in found)
