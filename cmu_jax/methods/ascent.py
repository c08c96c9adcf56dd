"""Gradient ascent: a few steps up the loss of the identified samples.

theta_u = a few steps from theta_o down -strength CE(S_f)

It needs nothing but S_f. The loss has no upper bound, so that steps are few.

Gradient ascent between epochs of training: GA as AMUN runs it with D_R.

each epoch: once through D_R down CE, then once through D_F up CE

NegGrad+: descent on R and ascent on S_f in every step.

theta_u = argmin over theta from theta_o of b CE(R) - (1 - b) CE(S_f)

With b = 1 and without BatchNorm, whose statistics are of both, this is CF.

NPO: negative preference optimisation on S_f beside training on R.

  theta_u = argmin over theta from theta_o of
    CE(R) - (2 / beta) mean over S_f of
            log sigmoid(-beta log(p(y | x; theta) / p(y | x; theta_o)))

Its gradient on a sample is that of ascent times 2 p^beta / (p^beta + p_o^beta):
1 at theta_o, towards 0 as the label is unlearned, and 1 throughout, which is
ascent, as beta goes to 0.
"""

import jax
import numpy as np
import optax
from jaxtyping import Array, Float

from cmu_jax.core.types import InputStep, Method, Model
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent, metrics


def gradient_ascent(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  strengths: tuple[float, ...] = (0.1, 0.01, 0.03, 0.3, 1.0),
) -> Method:
  """Unlearns by the gradient of S_f alone.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of the ascent; with SGD, a strength multiplies its rate.
    steps: of the ascent, few.
    batch_size: of S_f.
    strengths: the grid of 'strength'.

  References:
    Anti-Backdoor Learning, arXiv 2110.11571: ascent on the 1 % of
    the training set that is held to be poisoned.
  """

  def ascent(logits, draw, context, hyper):
    known = objectives.cross_entropy_term(logits, draw, context, hyper)
    return -hyper['strength'] * known

  objective = objectives.single_term(model, 'forget', ascent)
  phase = descent.Phase(objective, (('forget', batch_size),))
  return finetuning.method(
    descent.Recipe((phase,), optimizer, inputs),
    steps,
    'gradient ascent on S_f',
    grid=finetuning.grid_points('strength', strengths),
  )


def alternating_ascent(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
) -> Method:
  """Trains on D_R and climbs on D_F in turn.

  Args:
    model: the network.
    inputs: raw pixels to network input.
    optimizer: of both, schedule included.
    steps: of both together; the last epoch may be cut.
    batch_size: of both, at most |D_F|.

  References:
    AMUN, arXiv 2503.00917, section 5.1.
  """

  def ascent(logits, draw, context, hyper):
    return -objectives.cross_entropy_term(logits, draw, context, hyper)

  recipe = descent.Recipe(
    (
      descent.Phase(objectives.cross_entropy(model), (('retain', batch_size),)),
      descent.Phase(
        objectives.single_term(model, 'forget', ascent),
        (('forget', batch_size),),
      ),
    ),
    optimizer,
    inputs,
  )

  def start(key, variables, given, prepared):
    del key, prepared
    up, down = finetuning.epoch_lengths(given, batch_size, batch_size)
    epoch = np.repeat([0, 1], [down, up])
    streams = {'retain': given.retain, 'forget': given.forget}
    return finetuning.Start(variables, streams, np.resize(epoch, steps))

  return finetuning.method(
    recipe, steps, 'gradient ascent between epochs', start=start
  )


def neggrad_plus(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  weights: tuple[float, ...] = (0.95, 0.9, 0.99, 0.999),
) -> Method:
  """Gradient ascent on S_f that training on R holds back.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of the fine-tuning, schedule included.
    steps: of the fine-tuning.
    batch_size: of R and as much of S_f.
    weights: the grid of 'retain_weight', b; CE(S_f) has no upper bound, which
      is why they are close to 1.

  References:
    Towards Unbounded Machine Unlearning, arXiv 2302.09880.
  """

  def ascent(logits, draw, context, hyper):
    known = objectives.cross_entropy_term(logits, draw, context, hyper)
    return (hyper['retain_weight'] - 1) * known

  objective = objectives.retain_plus_term(
    model, ascent, lambda hyper: hyper['retain_weight']
  )
  phase = descent.Phase(objective, objectives.paired_streams(batch_size))
  return finetuning.method(
    descent.Recipe((phase,), optimizer, inputs),
    steps,
    'NegGrad+',
    grid=finetuning.grid_points('retain_weight', weights),
  )


def preference_loss(
  ratio: Float[Array, 'n'], beta: float | Float[Array, '']
) -> Float[Array, 'n']:
  """-(2 / beta) log sigmoid(-beta ratio), ratio = log p - log p_o."""
  return -2 / beta * jax.nn.log_sigmoid(-beta * ratio)


def npo(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  betas: tuple[float, ...] = (0.1, 0.01, 1.0, 10.0),
) -> Method:
  """Bounded ascent on S_f and training on R.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of the fine-tuning, schedule included.
    steps: of the fine-tuning.
    batch_size: of R and as much of S_f.
    betas: the grid of 'beta', all above 0.

  References:
    Negative Preference Optimization, arXiv 2404.05868.
  """

  def term(logits, draw, context, hyper):
    before = model.apply(context, draw.image)
    now = metrics.cross_entropy(logits, draw.label)
    ratio = metrics.cross_entropy(before, draw.label) - now
    return preference_loss(ratio, hyper['beta']).mean()

  phase = descent.Phase(
    objectives.retain_plus_term(model, term),
    objectives.paired_streams(batch_size),
  )
  return finetuning.method(
    descent.Recipe((phase,), optimizer, inputs),
    steps,
    'NPO',
    grid=finetuning.grid_points('beta', betas),
    prepare=finetuning.prepare_teacher,
  )
