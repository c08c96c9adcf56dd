r"""SCRUB as the corrective benchmark runs it: ascent on S_f, descent on R.

  KD(theta)  = T^2 mean KL(softmax_T f(.; theta_o) || softmax_T f(.; theta))
  R:           min  CE + alpha KD
  S_f:         max  CE + alpha KD

T = 4; theta_o is in evaluation mode on the same augmented images. One epoch of
S_f goes before an epoch of R as long as fewer than `msteps` steps are done, so
that 500 identified samples get 2 steps of ascent of 1000. This is not the
published SCRUB, which is in `scrub_original`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import optax
from jaxtyping import Int

from cmu_jax.core.types import InputStep, Method, Model
from cmu_jax.methods import finetuning, objectives
from cmu_jax.methods.objectives import Objective
from cmu_jax.training import best_epoch, descent

ALPHAS = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_DEFAULT = 0.1


def distilled(
  model: Model,
  stream: str,
  weigh: Callable[[Any], tuple[Any, Any]],
  temperature: float,
) -> Objective:
  """w_ce CE + w_kd KD on one stream; theta_o is the context.

  Args:
    model: the network, updated in training mode.
    stream: what both terms are of.
    weigh: hyper -> (w_ce, w_kd).
    temperature: T.
  """

  def term(logits, draw, context, hyper):
    wanted = model.apply(context, draw.image)
    known = objectives.likelihood(logits, draw, context, hyper)
    kept = objectives.divergence(wanted, logits, temperature).mean()
    ce, kd = weigh(hyper)
    return ce * known + kd * kept

  return objectives.on(model, stream, term)


def alternate(
  steps: int,
  forget: int,
  retain: int,
  ascends: Callable[[int, int], bool],
) -> Int[np.ndarray, 't']:
  """The phase of each step: 0, an epoch of S_f, or 1, an epoch of R.

  Args:
    steps: where to stop, inside an epoch or not.
    forget: steps of an epoch of S_f.
    retain: steps of an epoch of R.
    ascends: (epochs of R so far, steps so far) -> whether S_f comes first.
  """
  phases: list[int] = []
  epoch = 0
  while len(phases) < steps:
    phases += [0] * (forget if ascends(epoch, len(phases)) else 0)
    phases += [1] * retain
    epoch += 1
  return np.asarray(phases[:steps])


def epoch_steps(given: Any, forget: int, retain: int) -> tuple[int, int]:
  """ceil(count / batch size) of S_f and of R, whose counts may be masked."""
  sets = (given.forget, forget), (given.retain, retain)
  first, second = (
    -(-int(np.asarray(samples.valid).sum()) // size) for samples, size in sets
  )
  return first, second


def scrub(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  msteps: int = 100,
  temperature: float = 4.0,
  alphas: tuple[float, ...] = ALPHAS,
  keep: best_epoch.Keep | None = None,
) -> Method:
  """SCRUB as released with the benchmark.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of both phases; the benchmark's peak rate is 0.0025.
    steps: of both phases together; the benchmark takes 1000.
    batch_size: of both phases. An epoch of fewer identified samples than that
      is one step, which goes round them.
    msteps: an epoch of S_f may start while fewer steps are done: 100 in the
      released scripts, 200 in the paper.
    temperature: T.
    alphas: the grid of 'scrub_alpha', the weight of KD; 0.1, if in it, is the
      default, else the first one.
    keep: to end at the best epoch, see `finetuning.fine_tuning`.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, sections 3.2 and A.2.
  """
  up = distilled(
    model, 'forget', lambda hyper: (-1.0, -hyper['scrub_alpha']), temperature
  )
  down = distilled(
    model, 'retain', lambda hyper: (1.0, hyper['scrub_alpha']), temperature
  )
  recipe = descent.Recipe(
    (
      descent.Phase(up, (('forget', batch_size),)),
      descent.Phase(down, (('retain', batch_size),)),
    ),
    optimizer,
    inputs,
  )

  def start(key, variables, given, prepared):
    del key
    epochs = epoch_steps(given, batch_size, batch_size)
    plan = alternate(steps, *epochs, lambda epoch, step: step < msteps)
    streams = {'forget': given.forget, 'retain': given.retain}
    return finetuning.Start(variables, streams, plan, prepared)

  values = sorted(alphas, key=lambda alpha: alpha != _DEFAULT)
  return finetuning.fine_tuning(
    recipe,
    steps,
    'SCRUB',
    grid=finetuning.points('scrub_alpha', tuple(values)),
    prepare=finetuning.teacher,
    start=start,
    keep=keep,
  )
