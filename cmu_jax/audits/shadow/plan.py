"""What is said of shadow models before they are trained, and what is left."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Bool, Int, Shaped

from cmu_jax import audits
from cmu_jax.audits import signals
from cmu_jax.core import vectorize
from cmu_jax.core.types import InputStep, PRNGKey, Variables
from cmu_jax.training import losses, segment

Unlearn = Callable[
  [PRNGKey, Variables, Int[np.ndarray, '_'], Int[np.ndarray, '_']], Variables
]
"""(key, variables, points kept, points to forget) -> variables."""


class Fit(NamedTuple):
  """How each model is trained.

  Attributes:
    inputs: raw pixels to network input.
    optimizer: an optax transformation; its schedule counts these steps.
    steps: optimiser steps.
    batch_size: samples a step; at most as many as a model is trained on.
    loss: (logits, label) -> one value a sample.
  """

  inputs: InputStep
  optimizer: optax.GradientTransformation
  steps: int
  batch_size: int
  loss: segment.Loss = losses.cross_entropy


class Plan(NamedTuple):
  """How the models are driven; no number depends on it but by rounding.

  Attributes:
    group: how many models are trained at a time, made up to whole blocks (see
      `train.train`); 0 for what the memory takes.
    budget: bytes of memory for a group, from which its size follows.
    how: see `vectorize.over`; None for the best on this backend.
    devices: that share a group; None for all local ones.
    threads: that share a group on one device; 0 for one a core of a CPU.
    seconds: how much work may be lost at most.
    folder: where groups are kept; None for nowhere.
    address: of everything that the models depend on besides key, data and
      membership: two trainings of one folder must not share it.
    method: likewise, of what the models depend on once they have forgotten.
    images: of a model in memory at once when it is looked at.
    title: what progress and errors call the models.
  """

  group: int = 0
  budget: int = 4 * 2**30
  how: vectorize.How | None = None
  devices: tuple[jax.Device, ...] | None = None
  threads: int = 0
  seconds: float = 20.0
  folder: pathlib.Path | None = None
  address: str = ''
  method: str = ''
  images: int = 1024
  title: str = 'shadow models'


PLAN = Plan()


class Shadows(NamedTuple):
  """What K models leave behind.

  Attributes:
    inside: which model was trained on which point.
    statistics: signal -> its value at each point under each trained model.
    unlearned: the same once each model has forgotten; None without unlearning.
    variables: the models in their last state, stacked, on the host; None
      unless they were asked for.
  """

  inside: Bool[np.ndarray, 'k n']
  statistics: dict[str, Shaped[np.ndarray, 'k n']]
  unlearned: dict[str, Shaped[np.ndarray, 'k n']] | None
  variables: Variables | None


SIGNALS: dict[str, signals.Signal] = {
  name: audits.SIGNALS[name] for name in ('softmax', 'logit_confidence')
}
