"""Corrective machine unlearning in JAX/Flax.

The most used functions and types are names of this module:

  import cmu_jax
  digits = cmu_jax.data.load('digits')
  tau, _ = cmu_jax.direction(key, model, variables, proxy, ...)
  params = cmu_jax.edit(variables.params, tau, alpha)

Everything else is in ten packages, each of which imports only those above it:

  core        types, errors, random keys, trees, files, configs, checkpoints
  report      results.json to tables, figures and a page
  data        sources, splits, corruptions, proxy sets, the input step
  networks    network families, weights, users' own networks
  training    training loops, optimizers, metrics
  robustness  attacks, adversarial sets, spectral norms, Lipschitz bounds
  audits      membership inference, label recovery, shadow models
  methods     CUTS, AMUN and other methods of unlearning and repair
  studies     experiments that compare methods
  commands    the command line

Names are imported on first use, so `import cmu_jax` is quick.
"""

import signal
import sys
from typing import Any

__version__ = '0.1.0'

# Commands that were modules of their own.
_EARLIER_MODULES = tuple(
  f'{__name__}.{name}' for name in ('repair', 'unlearn', 'audit', 'study')
)


def _prepare_command() -> None:
  """Ends `python -m cmu_jax.repair` with the present command."""
  # Python imports this package before it looks for the module in vain.
  _, _, words = ' '.join(sys.orig_argv).partition(' -m ')
  module = words.split(' ')[0]
  if sys.argv[:1] != ['-m']:
    return
  if module in (__name__, f'{__name__}.main'):
    from cmu_jax.commands import terminal

    # During the imports of a command control-C would end in a traceback.
    signal.signal(signal.SIGINT, lambda *_: terminal.exit_interrupted())
  if module in _EARLIER_MODULES:
    name = module.rpartition('.')[2]
    print(
      f'error: this command is now `python -m cmu_jax {name}` (a space, no '
      'dot); its flags are the same',
      file=sys.stderr,
    )
    raise SystemExit(2)


_prepare_command()


# Imports stand inside functions, where readers and tools can follow them: a
# report must be readable without JAX, which most of these names import.
def _core() -> dict[str, Any]:
  from cmu_jax.core.errors import UserError
  from cmu_jax.core.store import Checkpoint
  from cmu_jax.core.tree import edit, edit_predicate, random_like, task_vector
  from cmu_jax.core.types import (
    Batch,
    Corruption,
    Dataset,
    InputStep,
    Method,
    MethodInputs,
    Model,
    Network,
    Proxy,
    Samples,
    Training,
    Trigger,
    Variables,
  )

  return locals()


def _data() -> dict[str, Any]:
  from cmu_jax.data.proxy_sets import make_proxy, wrap_labels

  return locals()


def _training() -> dict[str, Any]:
  from cmu_jax.training.train import Fit, Session, fit

  return locals()


def _networks() -> dict[str, Any]:
  from cmu_jax.networks.shipped import save_weights

  return locals()


def _methods() -> dict[str, Any]:
  from cmu_jax.methods.amun import amun
  from cmu_jax.methods.cuts.algorithm import cuts, direction
  from cmu_jax.methods.cuts.alpha_search import Selection, curve, select_alpha

  return locals()


def _commands() -> dict[str, Any]:
  from cmu_jax.commands.audit import audit
  from cmu_jax.commands.find import find
  from cmu_jax.commands.repair import repair
  from cmu_jax.commands.unlearn import unlearn

  return locals()


# `import a.b`, because `from a import b` would call `__getattr__` again.
def _light_packages() -> dict[str, Any]:
  import cmu_jax.commands as commands
  import cmu_jax.core as core
  import cmu_jax.core.config as config  # Config files of users import it.
  import cmu_jax.report as report
  import cmu_jax.studies as studies

  return locals()


def _packages() -> dict[str, Any]:
  import cmu_jax.audits as audits
  import cmu_jax.data as data
  import cmu_jax.methods as methods
  import cmu_jax.networks as networks
  import cmu_jax.robustness as robustness
  import cmu_jax.training as training

  return locals()


_LOADERS = {
  _core: (
    'Batch Checkpoint Corruption Dataset InputStep Method MethodInputs Model '
    'Network Proxy Samples Training Trigger UserError Variables edit '
    'edit_predicate random_like task_vector'
  ),
  _networks: 'save_weights',
  _data: 'make_proxy wrap_labels',
  _training: 'Fit Session fit',
  _methods: 'Selection amun curve cuts direction select_alpha',
  _commands: 'audit find repair unlearn',
  _light_packages: 'commands config core report studies',
  _packages: 'audits data methods networks robustness training',
}
_LOADER = {
  name: load for load, names in _LOADERS.items() for name in names.split()
}

__all__ = sorted({*_LOADER, '__version__'})


def __getattr__(name: str) -> Any:
  """Imports a public name on first use (PEP 562)."""
  if name not in _LOADER:
    raise AttributeError(f'module cmu_jax has no attribute {name!r}')
  names = _LOADER[name]()
  # The next use is an ordinary look-up.
  globals().update(names)
  return names[name]


def __dir__() -> list[str]:
  """Lists the public names, for `dir`, `help` and completion."""
  return list(__all__)
