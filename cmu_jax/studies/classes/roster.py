"""The methods of the study of forgotten classes. A new one is a line here.

Methods that also forget random subsets come from the common catalogue. The
forget set is all images of a class.
"""

import functools

from ml_collections import ConfigDict

from cmu_jax.core.types import Method, Network
from cmu_jax.methods import teachers, trw
from cmu_jax.methods.projection import svd_projection
from cmu_jax.studies.engine import catalogue
from cmu_jax.studies.engine.catalogue import Entry, Sizes

# Methods that subsets has too.
_SHARED = ('retrain', 'ft', 'rl', 'ga', 'salun', 'bs', 'l1')


def _retain(sizes: Sizes) -> int:
  return sizes.retain


def entries(
  betas: tuple[float, ...] = trw.BETAS,
  dimensions: tuple[int, ...] = trw.DIMENSIONS,
) -> dict[str, Entry]:
  """Builds the entries of all methods.

  Args:
    betas: grid of TRW.
    dimensions: likewise.
  """
  # A single noise here: noisy similarities have a phase of their own.
  tilted = functools.partial(
    trw.trw, betas=betas, dimensions=dimensions, noises=(0.0,)
  )
  tuned = lambda make, says: Entry(make, _retain, 'unlearn', says)
  fixed = lambda make, says: Entry(make, _retain, '', says)
  return {
    **{name: catalogue.ENTRIES[name] for name in _SHARED},
    'svd': fixed(
      svd_projection.svd_projection,
      'projects kernels off what only the class uses',
    ),
    'scrub': tuned(
      functools.partial(teachers.scrub_original, alphas=(0.5, 0.001)),
      'away from the original on the class, towards it elsewhere',
    ),
    'mask': fixed(trw.logit_mask, 'forbids the answer, nothing else'),
    'rwft': tuned(
      functools.partial(tilted, betas=(0.0,), dimensions=dimensions[:1]),
      "teaches the original's answers, renormalised without the class",
    ),
    'trw': tuned(tilted, 'rwft tilted towards classes like it'),
    'trw_sample': tuned(
      functools.partial(tilted, by_sample=True),
      'trw by what each image is like',
    ),
  }


KNOWN = tuple(name for name in entries() if name != 'retrain')
DEFAULT = KNOWN


def make_methods(
  config: ConfigDict, network: Network, sizes: Sizes
) -> dict[str, Method]:
  """Builds the methods of a run by name.

  Args:
    config: of the run.
    network: the model and its input step.
    sizes: of D_R and D_F for an average class, so that epochs are equal for all
      classes.
  """
  table = entries(tuple(config.betas), tuple(config.dimensions))
  methods = {
    name: catalogue.make(config, network, sizes, name, table)
    for name in dict.fromkeys(('retrain', *config.methods))
  }
  if {'trw', 'rwft'} <= set(methods):
    # beta is traced: one compilation serves both.
    methods['rwft'] = methods['trw']._replace(grid=methods['rwft'].grid)
  return methods
