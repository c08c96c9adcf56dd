"""Problems and trials by name, and their addresses.

A trial is one method at one identified fraction of one problem, with its whole
grid. Its address is a digest of everything that decides its numbers: a run that
was killed finds the finished ones, a new config computes what it changes.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from cmu_jax.core import config as config_lib
from cmu_jax.studies.corrective import roster

# Raised if the same settings come to give other numbers.
_VERSION = 1
# Settings that change S_tr or the original network: the others leave its file
# valid.
_PROBLEM = (
  'dataset',
  'image_size',
  'train_limit',
  'test_limit',
  'validation',
  'proxy_fraction',
  'published_indices',
  'model',
  'input',
  'train',
)
# The gold standard, at identified fraction 1: in every run, whatever
# config.methods says.
RETRAIN = 'rewod'


class Case(NamedTuple):
  """A problem by its names."""

  manipulation: str
  size: int
  seed: int


class Trial(NamedTuple):
  """A method at an identified fraction of a problem."""

  case: Case
  fraction: float
  method: str


def list_cases(config: ConfigDict) -> list[Case]:
  """Lists all problems, seed by seed: early results are of whole seeds."""
  return [
    Case(kind, size, seed)
    for seed in config.seeds
    for kind in config.manipulations
    for size in config[kind].sizes
  ]


def list_trials(config: ConfigDict) -> list[Trial]:
  """Lists all trials, the gold standard of each problem first."""
  # A dictionary, because config.methods may name retraining at 1 too.
  trials: dict[Trial, None] = {}
  for case in list_cases(config):
    trials[Trial(case, 1.0, RETRAIN)] = None
    for fraction in config.identified_fractions:
      for method in config.methods:
        trials[Trial(case, float(fraction), method)] = None
  return list(trials)


def case_address(config: ConfigDict, digest: str, case: Case) -> str:
  """Computes the address of a problem and of its original network.

  Args:
    config: every setting.
    digest: of the data.
    case: the problem.
  """
  # One file holds one size: more sizes leave the others valid.
  settings = {
    k: v for k, v in config[case.manipulation].items() if k != 'sizes'
  }
  return config_lib.fingerprint(
    {
      'version': _VERSION,
      'data': digest,
      'case': case._asdict(),
      'manipulation': settings,
      **{name: config[name] for name in _PROBLEM},
      # Runs that keep the last iterate keep their addresses.
      **({'best_epoch': True} if config.best_epoch else {}),
    }
  )


def trial_address(config: ConfigDict, digest: str, trial: Trial) -> str:
  """Computes the address of a trial; arguments as for `case_address`."""
  audit = {'audit': config.audit, 'references': config.references}
  return config_lib.fingerprint(
    {
      'case': case_address(config, digest, trial.case),
      'fraction': trial.fraction,
      'method': trial.method,
      'settings': roster.settings_of(config, trial.method),
      # Trials of runs without an audit keep their addresses.
      **(audit if config.audit else {}),
    }
  )
