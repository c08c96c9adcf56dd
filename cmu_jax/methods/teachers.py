"""SCRUB as the corrective benchmark runs it: ascent on S_f, descent on R.

  KD(theta)  = T^2 mean KL(softmax_T f(.; theta_o) || softmax_T f(.; theta))
  R:           min  CE + alpha KD
  S_f:         max  CE + alpha KD

T = 4; theta_o is in evaluation mode on the same augmented images. One epoch of
S_f goes before an epoch of R as long as fewer than `msteps` steps are done, so
that 500 identified samples get 2 steps of ascent of 1000. This is not the
published SCRUB, which is in `scrub_original`.

SCRUB as published: away from the teacher on S_f, towards it on R.

  R:    min  gamma CE + alpha KD
  S_f:  max  KD

KD is as in `scrub`. An epoch of S_f goes before each of the first epochs of R;
the rest of the steps are of R alone.

BadT: distillation from a bad teacher on S_f and from theta_o elsewhere.

  q(x)    = softmax f(x; theta_rand) on S_f,  softmax f(x; theta_o) on the rest
  theta_u = argmin over theta from theta_o of KL(q || softmax f(x; theta)),

drawn in one pass over all of S_tr. Both teachers are in evaluation mode;
theta_rand is newly initialised, its running statistics too.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from cmu_jax.core import errors
from cmu_jax.core.types import Method, Model, Network, Training
from cmu_jax.methods import finetuning, objectives
from cmu_jax.methods.objectives import Objective
from cmu_jax.training import descent, early_stopping

SCRUB_ALPHAS = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_DEFAULT_ALPHA = 0.1


def distillation_objective(
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
    known = objectives.cross_entropy_term(logits, draw, context, hyper)
    kept = objectives.divergence(wanted, logits, temperature).mean()
    ce, kd = weigh(hyper)
    return ce * known + kd * kept

  return objectives.single_term(model, stream, term)


def alternating_phases(
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


def scrub(
  network: Network,
  training: Training,
  *,
  msteps: int = 100,
  temperature: float = 4.0,
  alphas: tuple[float, ...] = SCRUB_ALPHAS,
  keep: early_stopping.BestEpoch | None = None,
) -> Method:
  """SCRUB as released with the benchmark.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    msteps: an epoch of S_f may start while fewer steps are done: 100 in the
      released scripts, 200 in the paper.
    temperature: T.
    alphas: the grid of 'scrub_alpha', the weight of KD; 0.1, if in it, is the
      default, else the first one.
    keep: to end at the best epoch, see `finetuning.method`.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, sections 3.2 and A.2.
  """
  up = distillation_objective(
    network.model,
    'forget',
    lambda hyper: (-1.0, -hyper['scrub_alpha']),
    temperature,
  )
  down = distillation_objective(
    network.model,
    'retain',
    lambda hyper: (1.0, hyper['scrub_alpha']),
    temperature,
  )
  recipe = descent.Recipe(
    (
      descent.Phase(up, (('forget', training.batch_size),)),
      descent.Phase(down, (('retain', training.batch_size),)),
    ),
    training.optimizer,
    network.inputs,
  )

  def start(key, variables, given, prepared):
    del key
    epochs = finetuning.epoch_lengths(
      given, training.batch_size, training.batch_size
    )
    plan = alternating_phases(
      training.steps, *epochs, lambda epoch, step: step < msteps
    )
    streams = {'forget': given.forget, 'retain': given.retain}
    return finetuning.Start(variables, streams, plan, prepared)

  values = sorted(alphas, key=lambda alpha: alpha != _DEFAULT_ALPHA)
  return finetuning.method(
    recipe,
    training.steps,
    'SCRUB',
    grid=finetuning.grid_points('scrub_alpha', tuple(values)),
    prepare=finetuning.prepare_teacher,
    start=start,
    keep=keep,
  )


def scrub_original(
  network: Network,
  training: Training,
  *,
  forget_batch_size: int | None = None,
  max_epochs: int = 2,
  temperature: float = 4.0,
  gammas: tuple[float, ...] = (0.99,),
  alphas: tuple[float, ...] = (0.001, 0.01, 0.5),
) -> Method:
  """SCRUB with the teacher alone to move away from.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    forget_batch_size: of S_f, 32 in published runs; None for `batch_size`.
    max_epochs: how many epochs of S_f there are, 2 or 3 in published runs.
    temperature: T, 2 or 4 in published runs.
    gammas: of the grid; 0.99, 1 and 99 in published runs.
    alphas: of the grid, named 'scrub_alpha'.

  References:
    Towards Unbounded Machine Unlearning, arXiv 2302.09880.
  """
  forget_size = forget_batch_size or training.batch_size
  up = distillation_objective(
    network.model, 'forget', lambda hyper: (0.0, -1.0), temperature
  )
  down = distillation_objective(
    network.model,
    'retain',
    lambda hyper: (hyper['gamma'], hyper['scrub_alpha']),
    temperature,
  )
  recipe = descent.Recipe(
    (
      descent.Phase(up, (('forget', forget_size),)),
      descent.Phase(down, (('retain', training.batch_size),)),
    ),
    training.optimizer,
    network.inputs,
  )

  def start(key, variables, given, prepared):
    del key
    epochs = finetuning.epoch_lengths(given, forget_size, training.batch_size)
    plan = alternating_phases(
      training.steps, *epochs, lambda epoch, step: epoch < max_epochs
    )
    streams = {'forget': given.forget, 'retain': given.retain}
    return finetuning.Start(variables, streams, plan, prepared)

  grid = tuple({'gamma': g, 'scrub_alpha': a} for g in gammas for a in alphas)
  return finetuning.method(
    recipe,
    training.steps,
    'published SCRUB',
    grid=grid,
    prepare=finetuning.prepare_teacher,
    start=start,
  )


REDUCTIONS = ('elementmean', 'batchmean')


def bad_teacher_objective(model: Model, reduction: str) -> Objective:
  """The objective; its context is (theta_o, theta_rand).

  Args:
    model: the network, updated in training mode.
    reduction: see `badt`.
  """

  def objective(variables, draws, context, hyper, time):
    del hyper, time
    seen = draws['train']
    logits, stats = model.update(variables, seen.image)
    good, bad = (model.apply(teacher, seen.image) for teacher in context)
    wanted = jnp.where(seen.identified[:, None], bad, good)
    loss = objectives.divergence(wanted, logits).mean()
    if reduction == 'elementmean':
      loss = loss / logits.shape[-1]
    return loss, stats

  return objective


def badt(
  network: Network,
  training: Training,
  *,
  reduction: str = 'elementmean',
  keep: early_stopping.BestEpoch | None = None,
) -> Method:
  """Unlearns S_f towards a network that knows nothing.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    reduction: 'elementmean' divides by samples and classes, as the released
      codes do; 'batchmean', the divergence itself, by samples alone.
    keep: to end at the best epoch, see `finetuning.method`.

  Raises:
    UserError: an unknown reduction.

  References:
    Can Bad Teaching Induce Forgetting?, arXiv 2205.08096;
    Corrective Machine Unlearning, arXiv 2402.14015, section 3.2. No grid.
  """
  if reduction not in REDUCTIONS:
    raise errors.unknown_name('reduction of badt', reduction, REDUCTIONS)
  phase = descent.Phase(
    bad_teacher_objective(network.model, reduction),
    (('train', training.batch_size),),
  )
  recipe = descent.Recipe((phase,), training.optimizer, network.inputs)

  def prepare(key, variables, given):
    del variables
    return finetuning.initialize(key, network, given.retain)

  def start(key, variables, given, prepared):
    del key
    joined = {'train': descent.join_samples(given.retain, given.forget)}
    return finetuning.Start(
      variables, joined, training.steps, (variables, prepared)
    )

  return finetuning.method(
    recipe,
    training.steps,
    'bad teaching',
    needs=('retain', 'forget'),
    prepare=prepare,
    start=start,
    keep=keep,
  )
