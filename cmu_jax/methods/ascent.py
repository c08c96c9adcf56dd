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
from jaxtyping import Array, Float

from cmu_jax.core.types import Method, Network, Training
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent, metrics


def gradient_ascent(
  network: Network,
  training: Training,
  *,
  strengths: tuple[float, ...] = (0.1, 0.01, 0.03, 0.3, 1.0),
) -> Method:
  """Unlearns by the gradient of S_f alone.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    strengths: the grid of 'strength'.

  References:
    Anti-Backdoor Learning, arXiv 2110.11571: ascent on the 1 % of
    the training set that is held to be poisoned.
  """

  def ascent(logits, draw, context, hyper):
    known = objectives.cross_entropy_term(logits, draw, context, hyper)
    return -hyper['strength'] * known

  objective = objectives.single_term(network.model, 'forget', ascent)
  phase = descent.Phase(objective, (('forget', training.batch_size),))
  return finetuning.method(
    descent.Recipe((phase,), training.optimizer, network.inputs),
    training.steps,
    'gradient ascent on S_f',
    grid=finetuning.grid_points('strength', strengths),
  )


def alternating_ascent(network: Network, training: Training) -> Method:
  """Trains on D_R and climbs on D_F in turn.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.

  References:
    AMUN, arXiv 2503.00917, section 5.1.
  """

  def ascent(logits, draw, context, hyper):
    return -objectives.cross_entropy_term(logits, draw, context, hyper)

  recipe = descent.Recipe(
    (
      descent.Phase(
        objectives.cross_entropy(network.model),
        (('retain', training.batch_size),),
      ),
      descent.Phase(
        objectives.single_term(network.model, 'forget', ascent),
        (('forget', training.batch_size),),
      ),
    ),
    training.optimizer,
    network.inputs,
  )

  def start(key, variables, given, prepared):
    del key, prepared
    up, down = finetuning.epoch_lengths(
      given, training.batch_size, training.batch_size
    )
    epoch = np.repeat([0, 1], [down, up])
    streams = {'retain': given.retain, 'forget': given.forget}
    return finetuning.Start(
      variables, streams, np.resize(epoch, training.steps)
    )

  return finetuning.method(
    recipe, training.steps, 'gradient ascent between epochs', start=start
  )


def neggrad_plus(
  network: Network,
  training: Training,
  *,
  weights: tuple[float, ...] = (0.95, 0.9, 0.99, 0.999),
) -> Method:
  """Gradient ascent on S_f that training on R holds back.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    weights: the grid of 'retain_weight', b; CE(S_f) has no upper bound, which
      is why they are close to 1.

  References:
    Towards Unbounded Machine Unlearning, arXiv 2302.09880.
  """

  def ascent(logits, draw, context, hyper):
    known = objectives.cross_entropy_term(logits, draw, context, hyper)
    return (hyper['retain_weight'] - 1) * known

  objective = objectives.retain_plus_term(
    network.model, ascent, lambda hyper: hyper['retain_weight']
  )
  phase = descent.Phase(
    objective, objectives.paired_streams(training.batch_size)
  )
  return finetuning.method(
    descent.Recipe((phase,), training.optimizer, network.inputs),
    training.steps,
    'NegGrad+',
    grid=finetuning.grid_points('retain_weight', weights),
  )


def preference_loss(
  ratio: Float[Array, 'n'], beta: float | Float[Array, '']
) -> Float[Array, 'n']:
  """-(2 / beta) log sigmoid(-beta ratio), ratio = log p - log p_o."""
  return -2 / beta * jax.nn.log_sigmoid(-beta * ratio)


def npo(
  network: Network,
  training: Training,
  *,
  betas: tuple[float, ...] = (0.1, 0.01, 1.0, 10.0),
) -> Method:
  """Bounded ascent on S_f and training on R.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    betas: the grid of 'beta', all above 0.

  References:
    Negative Preference Optimization, arXiv 2404.05868.
  """

  def term(logits, draw, context, hyper):
    before = network.model.apply(context, draw.image)
    now = metrics.cross_entropy(logits, draw.label)
    ratio = metrics.cross_entropy(before, draw.label) - now
    return preference_loss(ratio, hyper['beta']).mean()

  phase = descent.Phase(
    objectives.retain_plus_term(network.model, term),
    objectives.paired_streams(training.batch_size),
  )
  return finetuning.method(
    descent.Recipe((phase,), training.optimizer, network.inputs),
    training.steps,
    'NPO',
    grid=finetuning.grid_points('beta', betas),
    prepare=finetuning.prepare_teacher,
  )
