r"""Methods that learn from frozen teachers: SCRUB in two forms, BadT.

  KD(theta)  = T^2 mean KL(softmax_T f(.; theta_o) || softmax_T f(.; theta))

  scrub, as the corrective benchmark runs it:
    R:    min  CE + alpha KD          S_f:  max  CE + alpha KD
  scrub_original, as published:
    R:    min  gamma CE + alpha KD    S_f:  max  KD
  badt, in one pass over all of S_tr:
    q(x)    = softmax f(x; theta_rand) on S_f,  softmax f(x; theta_o) on R
    theta_u = argmin over theta from theta_o of KL(q || softmax f(x; theta))

Teachers are in evaluation mode, on the same augmented images.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from cmu_jax.core import errors
from cmu_jax.core.types import Method, Model, Network, Training
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent, early_stopping

SCRUB_ALPHAS = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_DEFAULT_ALPHA = 0.1
REDUCTIONS = ('elementmean', 'batchmean')

Weigh = Callable[[Any], tuple[Any, Any]]


def _distillation_phase(
  network: Network,
  stream: str,
  batch_size: int,
  temperature: float,
  weigh: Weigh,
) -> descent.Phase:
  """w_ce CE + w_kd KD on one stream; theta_o is the context.

  Args:
    network: the model, updated in training mode.
    stream: 'forget' or 'retain'.
    batch_size: of the stream.
    temperature: T.
    weigh: hyper -> (w_ce, w_kd).
  """

  def term(logits, draw, context, hyper):
    teacher = network.model.apply(context, draw.image)
    loss = objectives.cross_entropy_term(logits, draw, context, hyper)
    distance = objectives.divergence(teacher, logits, temperature).mean()
    ce, kd = weigh(hyper)
    return ce * loss + kd * distance

  objective = objectives.single_term(network.model, stream, term)
  return descent.Phase(objective, ((stream, batch_size),))


def alternating_phases(
  steps: int,
  forget: int,
  retain: int,
  ascends: Callable[[int, int], bool],
) -> Int[np.ndarray, 't']:
  """Plans the phase of each step: 0 in an epoch of S_f, 1 in an epoch of R.

  Args:
    steps: of all phases; the last epoch may be cut.
    forget: steps of an epoch of S_f.
    retain: steps of an epoch of R.
    ascends: (epochs of R so far, steps so far) -> whether an epoch of S_f goes
      before the next one of R.
  """
  phases: list[int] = []
  epoch = 0
  while len(phases) < steps:
    phases += [0] * (forget if ascends(epoch, len(phases)) else 0)
    phases += [1] * retain
    epoch += 1
  return np.asarray(phases[:steps])


def _scrub_method(
  network: Network,
  training: Training,
  phases: tuple[descent.Phase, descent.Phase],
  ascends: Callable[[int, int], bool],
  title: str,
  grid: tuple[dict[str, float], ...],
  keep: early_stopping.BestEpoch | None = None,
) -> Method:
  """Alternates a phase of S_f with one of R, see `alternating_phases`."""
  sizes = [size for phase in phases for _, size in phase.streams]

  def start(key, variables, data, prepared):
    del key
    epochs = finetuning.epoch_lengths(data, *sizes)
    plan = alternating_phases(training.steps, *epochs, ascends)
    streams = {'forget': data.forget, 'retain': data.retain}
    return descent.Start(variables, streams, plan, prepared)

  return finetuning.method(
    descent.Recipe(phases, training.optimizer, network.inputs),
    training.steps,
    title,
    grid=grid,
    prepare=finetuning.prepare_teacher,
    start=start,
    keep=keep,
  )


@finetuning.check_settings
def scrub(
  network: Network,
  training: Training,
  *,
  msteps: int = 100,
  temperature: float = 4.0,
  alphas: tuple[float, ...] = SCRUB_ALPHAS,
  keep: early_stopping.BestEpoch | None = None,
) -> Method:
  """SCRUB as released with the benchmark; not the published method.

  Args:
    training: of both phases together; the benchmark takes 1000 steps and a
      peak rate of 0.0025.
    msteps: an epoch of S_f may start while fewer steps are done: 100 in the
      released scripts, 200 in the paper.
    temperature: T.
    alphas: the grid of 'scrub_alpha', the weight of KD; 0.1, if in it, is the
      default, else the first one.
    keep: ends at the best epoch, see `finetuning.method`.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, sections 3.2 and A.2.
  """
  # Fewer samples in S_f than in a batch make an epoch of one step: 500 of them
  # get 2 steps of ascent of 1000.
  up = _distillation_phase(
    network, 'forget', training.batch_size, temperature,
    lambda hyper: (-1.0, -hyper['scrub_alpha']),
  )  # fmt: skip
  down = _distillation_phase(
    network, 'retain', training.batch_size, temperature,
    lambda hyper: (1.0, hyper['scrub_alpha']),
  )  # fmt: skip
  # The first point of a grid is the default of the method.
  values = sorted(alphas, key=lambda alpha: alpha != _DEFAULT_ALPHA)
  return _scrub_method(
    network,
    training,
    (up, down),
    lambda epoch, step: step < msteps,
    'SCRUB',
    finetuning.grid_points('scrub_alpha', tuple(values)),
    keep,
  )


@finetuning.check_settings
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
  """SCRUB as published: moves away from the teacher alone.

  Args:
    training: of both phases together; published runs take 3 to 10 epochs with
      Adam or SGD at 5e-4, and batches of 128.
    forget_batch_size: of S_f, 32 in published runs; None for that of R.
    max_epochs: epochs of S_f, each before one of R; 2 or 3 in published runs.
    temperature: T, 2 or 4 in published runs.
    gammas: of the grid; 0.99, 1 and 99 in published runs.
    alphas: of the grid, named 'scrub_alpha'.

  References:
    Towards Unbounded Machine Unlearning, arXiv 2302.09880.
  """
  forget_size = forget_batch_size or training.batch_size
  up = _distillation_phase(
    network, 'forget', forget_size, temperature, lambda hyper: (0.0, -1.0)
  )
  down = _distillation_phase(
    network, 'retain', training.batch_size, temperature,
    lambda hyper: (hyper['gamma'], hyper['scrub_alpha']),
  )  # fmt: skip
  return _scrub_method(
    network,
    training,
    (up, down),
    lambda epoch, step: epoch < max_epochs,
    'published SCRUB',
    tuple({'gamma': g, 'scrub_alpha': a} for g in gammas for a in alphas),
  )


def bad_teacher_objective(model: Model, reduction: str) -> objectives.Objective:
  """The divergence from the teachers; its context is (theta_o, theta_rand).

  Args:
    model: the network, updated in training mode.
    reduction: see `badt`.
  """

  def objective(variables, draws, context, hyper, time):
    del hyper, time
    draw = draws['train']
    logits, stats = model.update(variables, draw.image)
    good, bad = (model.apply(t, draw.image) for t in context)
    target = jnp.where(draw.identified[:, None], bad, good)
    loss = objectives.divergence(target, logits).mean()
    # PyTorch's default reduction divides by classes as well: a much smaller
    # learning rate in effect.
    if reduction == 'elementmean':
      loss = loss / logits.shape[-1]
    return loss, stats

  return objective


@finetuning.check_settings
def badt(
  network: Network,
  training: Training,
  *,
  reduction: str = 'elementmean',
  keep: early_stopping.BestEpoch | None = None,
) -> Method:
  """Distils a random network on S_f, the original on R.

  Args:
    training: of the distillation; the benchmark takes 1000 steps (CIFAR-100:
      1500).
    reduction: 'elementmean' divides by samples and classes, as the released
      codes do; 'batchmean', the divergence itself, by samples alone.
    keep: ends at the best epoch, see `finetuning.method`.

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

  def prepare(key, variables, data):
    del variables
    # The bad teacher's running statistics are initial, too.
    return finetuning.initialize(key, network, data.retain)

  def start(key, variables, data, prepared):
    del key
    train = descent.join_samples(data.retain, data.forget)
    teachers = variables, prepared
    return descent.Start(variables, {'train': train}, training.steps, teachers)

  return finetuning.method(
    descent.Recipe((phase,), training.optimizer, network.inputs),
    training.steps,
    'bad teaching',
    needs=('retain', 'forget'),
    prepare=prepare,
    start=start,
    keep=keep,
  )
