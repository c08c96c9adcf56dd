"""Test settings: strict broadcasting, one compilation cache for the suite."""

import os
import pathlib

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import jaxlib
import pytest

# One folder a worker: JAX writes cache entries in place, so that another
# process may read half of one.
_WORKER = os.environ.get('PYTEST_XDIST_WORKER', 'alone')
_CACHE = pathlib.Path(__file__).parents[1] / '.cache' / 'jax_tests' / _WORKER

# The suite compiles far more than it computes. Without the emitters of fusions
# a compilation takes a third less; later versions of jaxlib have no such
# choice, and XLA ends a process that names a flag it does not know.
if jaxlib.__version__.startswith('0.10.'):
  os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_cpu_use_fusion_emitters=false'
    ' --xla_cpu_parallel_codegen_split_count=1',
  )

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_disable_most_optimizations', True)
jax.config.update('jax_compilation_cache_dir', str(_CACHE))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)

# Files of few but long tests: begun last, one of them would hold a worker while
# the other has nothing left to do.
_LONG = {
  'test_corrective_main.py',
  'test_cuts.py',
  'test_families.py',
  'test_kill.py',
  'test_malformed.py',
  'test_pinned.py',
  'test_projected.py',
  'test_repair.py',
  'test_run.py',
}


def pytest_collection_modifyitems(items):
  """Long files first."""
  items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.fixture(scope='module')
def quick_compilation():
  """Programs that run once repay no optimization."""
  # Imported late: an import above would precede the hook that checks types.
  from cmu_jax.core import jit

  with jit.skip_optimizations(True):
    yield
