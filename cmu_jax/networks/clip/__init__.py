"""CLIP and SigLIP: two towers, weights, text heads, preprocessing.

References:
  Learning Transferable Visual Models From Natural Language Supervision (arXiv
  2103.00020, 2021).
"""

from cmu_jax.networks.clip.architecture import (
  PUBLISHED,
  Sizes,
  Tower,
  config_path,
  config_writer,
  find_config,
  from_config,
)
from cmu_jax.networks.clip.loading import (
  FROM_CONFIG,
  LoadedClip,
  Towers,
  bind,
  export,
  load,
  resolve_sizes,
  variable_shapes,
)

__all__ = [
  'FROM_CONFIG',
  'PUBLISHED',
  'LoadedClip',
  'Sizes',
  'Tower',
  'Towers',
  'bind',
  'config_path',
  'config_writer',
  'export',
  'find_config',
  'from_config',
  'load',
  'resolve_sizes',
  'variable_shapes',
]
