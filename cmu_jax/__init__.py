"""Corrective machine unlearning in JAX/Flax.

The pure functions, for Colab and for other programs, in one flat namespace:

  import cmu_jax
  tau, _ = cmu_jax.direction(key, model, variables, proxy, ...)
  params = cmu_jax.edit(variables.params, tau, alpha)

Names are looked up when they are used, so that `import cmu_jax` is quick.
"""

import importlib
from typing import Any

__version__ = '0.1.0'

_HOMES = {
  'methods.cuts.alpha_search': 'curve Selection select_alpha',
  'core.errors': 'UserError',
  'methods.cuts.algorithm': 'cuts direction',
  'core.store': 'Checkpoint',
  'training.train': 'Fit fit',
  'core.tree': 'edit edit_predicate random_like task_vector',
  'core.types': 'Batch Corruption Dataset InputStep Model Proxy Trigger '
  'Unlearner Variables',
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
_MODULES = {
  'alpha': 'methods.cuts.alpha_search',
  'attacks': 'robustness.attacks',
  'audit': 'audits',
  'checkpoint': 'core.checkpoint',
  'config': 'core.config',
  'corruption': 'data.corruption',
  'data': 'data.sources',
  'descent': 'training.descent',
  'inputs': 'data.input_step',
  'lipschitz': 'robustness.lipschitz',
  'losses': 'training.metrics',
  'metrics': 'training.metrics',
  'models': 'networks',
  'optimizers': 'training.optimizers',
  'proxy': 'data.proxy_sets',
  'report': 'report',
  'rng': 'core.rng',
  'schedules': 'training.optimizers',
  'select': 'methods.cuts.alpha_rules',
  'shadow': 'audits.shadow',
  'simplex': 'methods.simplex',
  'spectral': 'robustness.spectral',
  'splits': 'data.splits',
  'sweep': 'core.vectorize',
  'task_vectors': 'methods.task_vectors',
  'telemetry': 'studies.cuts.telemetry',
  'train': 'training.train',
  'tree': 'core.tree',
  'triggers': 'data.corruption.triggers',
}

__all__ = sorted({*_HOME, *_MODULES, '__version__'})


def __getattr__(name: str) -> Any:
  """Imports a public name on first use (PEP 562)."""
  if name in _MODULES:
    return importlib.import_module(f'cmu_jax.{_MODULES[name]}')
  if name in _HOME:
    home = importlib.import_module(f'cmu_jax.{_HOME[name]}')
    return getattr(home, name)
  raise AttributeError(f'module cmu_jax has no attribute {name!r}')


def __dir__() -> list[str]:
  """What `dir(cmu_jax)` and completion show."""
  return list(__all__)
