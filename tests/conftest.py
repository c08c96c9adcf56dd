"""Test settings: strict broadcasting, one compilation cache for the suite."""

import os
import pathlib

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax

# One folder a worker: JAX writes cache entries in place, so that another
# process may read half of one.
_WORKER = os.environ.get('PYTEST_XDIST_WORKER', 'alone')
_CACHE = pathlib.Path(__file__).parents[1] / '.cache' / 'jax_tests' / _WORKER

jax.config.update('jax_numpy_rank_promotion', 'raise')
# The suite compiles far more than it computes.
jax.config.update('jax_disable_most_optimizations', True)
jax.config.update('jax_compilation_cache_dir', str(_CACHE))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)

# Files of few but long tests: begun last, one of them would hold a worker while
# the other has nothing left to do.
_LONG = {
  'test_corrective_main.py',
  'test_cuts.py',
  'test_kill.py',
  'test_malformed.py',
  'test_models.py',
  'test_projected.py',
  'test_repair.py',
  'test_run.py',
}


def pytest_collection_modifyitems(items):
  """Long files first."""
  items.sort(key=lambda item: item.path.name not in _LONG)
