"""The methods of a run that forgets classes. A new one is a line here.

What also forgets random subsets is taken from there. D_F is all of one class.
"""

import functools

from ml_collections import ConfigDict

from cmu_jax.core.types import Method, Network
from cmu_jax.methods import teachers, trw
from cmu_jax.methods.projection import svd_projection
from cmu_jax.studies.engine import catalogue
from cmu_jax.studies.engine.catalogue import Entry, Sizes

_SHARED = ('retrain', 'ft', 'rl', 'ga', 'salun', 'bs', 'l1')


def _retain(sizes: Sizes) -> int:
  return sizes.retain


def entries(
  betas: tuple[float, ...] = trw.BETAS,
  dimensions: tuple[int, ...] = trw.DIMENSIONS,
) -> dict[str, Entry]:
  """All methods by name.

  Args:
    betas: the grid of TRW.
    dimensions: likewise.
  """
  tilted = functools.partial(
    trw.trw, betas=betas, dimensions=dimensions, noises=(0.0,)
  )
  make = lambda factory, says: Entry(factory, _retain, 'unlearn', says)
  return {
    **{name: catalogue.ENTRIES[name] for name in _SHARED},
    'svd': Entry(
      svd_projection.svd_projection,
      _retain,
      '',
      'projects kernels off what only the class uses',
    ),
    'scrub': make(
      functools.partial(teachers.scrub_original, alphas=(0.5, 0.001)),
      'away from the original on the class, towards it elsewhere',
    ),
    'mask': Entry(
      trw.logit_mask, _retain, '', 'forbids the answer, nothing else'
    ),
    'rwft': make(
      functools.partial(tilted, betas=(0.0,), dimensions=dimensions[:1]),
      "teaches the original's answers, renormalised without the class",
    ),
    'trw': make(tilted, 'rwft tilted towards classes like it'),
    'trw_sample': make(
      functools.partial(tilted, by_sample=True),
      'trw by what each image is like',
    ),
  }


KNOWN = tuple(name for name in entries() if name != 'retrain')
DEFAULT = KNOWN


def make(
  config: ConfigDict, network: Network, sizes: Sizes
) -> dict[str, Method]:
  """Every method that a run needs, by name.

  Args:
    config: of the run.
    network: the model and its input step.
    sizes: of D_R and D_F, of an average class: epochs are alike for all.
  """
  known = entries(tuple(config.betas), tuple(config.dimensions))
  made = {
    name: catalogue.make(config, network, sizes, name, known)
    for name in dict.fromkeys(('retrain', *config.methods))
  }
  if {'trw', 'rwft'} <= set(made):
    # beta is traced: one compilation serves both.
    made['rwft'] = made['trw']._replace(grid=made['rwft'].grid)
  return made
