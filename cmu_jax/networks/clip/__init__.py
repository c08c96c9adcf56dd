"""CLIP: two towers, weights of others, words to heads, pictures to pixels.

References:
  Learning Transferable Visual Models From Natural Language Supervision (arXiv
  2103.00020, 2021).
"""

from cmu_jax.networks.clip.loading import (
  ANY,
  Loaded,
  Towers,
  bound,
  load,
  named,
  template,
  which,
)
from cmu_jax.networks.clip.sizes import KNOWN, Sizes, Tower, beside, from_config

__all__ = [
  'ANY',
  'KNOWN',
  'Loaded',
  'Sizes',
  'Tower',
  'Towers',
  'beside',
  'bound',
  'from_config',
  'load',
  'named',
  'template',
  'which',
]
