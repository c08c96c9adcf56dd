"""The studies by task. A new study is a function and a line here.

Each function imports its study when it is called: the imports take seconds,
and an error in a command line or a config has to show before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from cmu_jax.studies.engine.study import Study


def _label_noise() -> Study:
  from cmu_jax.studies.cuts import study

  return study.LABEL_NOISE


def _poison() -> Study:
  from cmu_jax.studies.cuts import study

  return study.POISON


def _classes() -> Study:
  from cmu_jax.studies.classes import study

  return study.STUDY


def _negation() -> Study:
  from cmu_jax.studies.negation import study

  return study.STUDY


def _subsets() -> Study:
  from cmu_jax.studies.subsets import study

  return study.STUDY


def _ensembles() -> Study:
  from cmu_jax.studies.ensembles import study

  return study.STUDY


def _corrective() -> Study:
  from cmu_jax.studies.corrective import study

  return study.STUDY


def _membership() -> Study:
  from cmu_jax.studies.membership import study

  return study.STUDY


# config.task -> its study.
STUDIES: dict[str, Callable[[], Study]] = {
  'label_noise': _label_noise,
  'poison': _poison,
  'class_unlearning': _classes,
  'forgetting': _subsets,
  'corrective': _corrective,
  'negation': _negation,
  'ensemble': _ensembles,
  'membership': _membership,
}

# Tasks whose work folder belongs to one config, see `workdir.open_run`.
CLAIMS_FOLDER = ('label_noise', 'poison')
