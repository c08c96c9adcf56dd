"""Test settings: strict broadcasting, one compilation cache for the suite."""

import os
import pathlib

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax

_CACHE = pathlib.Path(__file__).parents[1] / '.cache' / 'jax_tests'

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_compilation_cache_dir', str(_CACHE))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)
