"""The methods of the study of class unlearning, where D_F is a whole class."""

from typing import Any

from ml_collections import ConfigDict

from cmu_jax.core.types import Method, Network
from cmu_jax.methods import study_names, trw
from cmu_jax.studies.engine import catalogue
from cmu_jax.studies.engine.catalogue import Entry, Sizes

# Methods without a training.
_CLOSED_FORM = ('svd_projection', 'logit_mask')


def entries(
  betas: tuple[float, ...] = trw.BETAS,
  dimensions: tuple[int, ...] = trw.DIMENSIONS,
) -> dict[str, Entry]:
  """Builds the entries of all methods."""
  # A single noise here: noisy similarities have a phase of their own.
  tilted = {'betas': betas, 'dimensions': dimensions, 'noises': (0.0,)}
  options: dict[str, dict[str, Any]] = {
    'scrub_original': {'alphas': (0.5, 0.001)},
    'rwft': {**tilted, 'betas': (0.0,), 'dimensions': dimensions[:1]},
    'trw': tilted,
    'trw_sample': tilted,
  }
  parts = {'retrain': 'train', **dict.fromkeys(_CLOSED_FORM, '')}
  return {
    alias: catalogue.entry(
      study_names.CLASSES,
      name,
      parts.get(name, 'unlearn'),
      **options.get(name, {}),
    )
    for name, alias in study_names.NAMES[study_names.CLASSES].items()
    if name != 'none'
  }


KNOWN = tuple(name for name in entries() if name != 'retrain')
DEFAULT = KNOWN


def make_methods(
  config: ConfigDict, network: Network, sizes: Sizes
) -> dict[str, Method]:
  """Builds the methods of a run by name.

  Sizes are those of an average class, so that epochs are equal for all classes.
  """
  table = entries(tuple(config.betas), tuple(config.dimensions))
  methods = {
    name: catalogue.make(config, network, sizes, name, table)
    for name in dict.fromkeys(('retrain', *config.methods))
  }
  if {'trw', 'rwft'} <= set(methods):
    # beta is traced: one compilation serves both.
    grid = methods['rwft'].grid
    methods['rwft'] = methods['trw']._replace(grid=grid)
  return methods
