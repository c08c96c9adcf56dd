r"""Gradient ascent on the forget set, in four forms.

gradient_ascent     a few steps from theta_o down -strength CE(S_f)
alternating_ascent  each epoch: once through R down CE, then once through S_f
                    up CE (GA as AMUN runs it with D_R)
neggrad_plus        argmin over theta from theta_o of
                    b CE(R) - (1 - b) CE(S_f)
npo                 argmin over theta from theta_o of CE(R) - (2 / beta)
                    mean over S_f of log sigmoid(-beta log(p / p_o)),
                    with p = p(y | x; theta), p_o = p(y | x; theta_o)
"""

import jax
import numpy as np
from jaxtyping import Array, Float

from cmu_jax.core.types import Method, Network, Training
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent, metrics


@finetuning.check_settings
def gradient_ascent(
  network: Network,
  training: Training,
  *,
  strengths: tuple[float, ...] = (0.1, 0.01, 0.03, 0.3, 1.0),
) -> Method:
  """Climbs the loss of S_f, without any other data.

  Args:
    training: of the ascent; with SGD, a strength multiplies its rate. The loss
      has no upper bound, so steps are few.
    strengths: the grid of 'strength'.

  References:
    Anti-Backdoor Learning, arXiv 2110.11571: ascent on the 1 % of the training
    set that is held to be poisoned.
  """

  def term(logits, draw, context, hyper):
    loss = objectives.cross_entropy_term(logits, draw, context, hyper)
    return -hyper['strength'] * loss

  phase = objectives.forget_phase(
    network.model, term, training.batch_size, retain=False
  )
  return finetuning.method(
    descent.Recipe((phase,), training.optimizer, network.inputs),
    training.steps,
    'gradient ascent on S_f',
    grid=finetuning.grid_points('strength', strengths),
  )


@finetuning.check_settings
def alternating_ascent(network: Network, training: Training) -> Method:
  """Trains on D_R and climbs on D_F in turn.

  Args:
    training: of both together; the last epoch may be cut. The batch size is at
      most |D_F|.

  References:
    AMUN, arXiv 2503.00917, section 5.1.
  """
  size = training.batch_size

  # Without a strength: the phases share one optimizer and its rate.
  def term(logits, draw, context, hyper):
    return -objectives.cross_entropy_term(logits, draw, context, hyper)

  recipe = descent.Recipe(
    (
      objectives.training_phase(network.model, 'retain', size),
      objectives.forget_phase(network.model, term, size, retain=False),
    ),
    training.optimizer,
    network.inputs,
  )

  def start(key, variables, data, prepared):
    del key, prepared
    up, down = finetuning.epoch_lengths(data, size, size)
    epoch = np.repeat([0, 1], [down, up])
    streams = {'retain': data.retain, 'forget': data.forget}
    # The plan repeats an epoch and is cut at the last step.
    phases = np.resize(epoch, training.steps)
    return descent.Start(variables, streams, phases)

  return finetuning.method(
    recipe, training.steps, 'gradient ascent between epochs', start=start
  )


@finetuning.check_settings
def neggrad_plus(
  network: Network,
  training: Training,
  *,
  weights: tuple[float, ...] = (0.95, 0.9, 0.99, 0.999),
) -> Method:
  """Descends on R and climbs on S_f in every step (NegGrad+).

  With b = 1 and without BatchNorm, whose statistics are of both sets, this is
  `retraining.finetune`.

  Args:
    training: of the fine-tuning; the batch size is of either set.
    weights: the grid of 'retain_weight', b.

  References:
    Towards Unbounded Machine Unlearning, arXiv 2302.09880.
  """

  def term(logits, draw, context, hyper):
    loss = objectives.cross_entropy_term(logits, draw, context, hyper)
    # CE(S_f) has no upper bound, which is why the grid of b is close to 1.
    return (hyper['retain_weight'] - 1) * loss

  phase = objectives.forget_phase(
    network.model,
    term,
    training.batch_size,
    weight=lambda hyper: hyper['retain_weight'],
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
  # Its gradient is that of ascent times 2 p^beta / (p^beta + p_o^beta): 1 at
  # theta_o, towards 0 as the label is unlearned. As beta goes to 0 the factor
  # is 1 throughout, which is ascent.
  return -2 / beta * jax.nn.log_sigmoid(-beta * ratio)


@finetuning.check_settings
def npo(
  network: Network,
  training: Training,
  *,
  betas: tuple[float, ...] = (0.1, 0.01, 1.0, 10.0),
) -> Method:
  """Trains on R with a bounded ascent on S_f: negative preference optimisation.

  Args:
    training: of the fine-tuning; the batch size is of either set.
    betas: the grid of 'beta', all above 0.

  References:
    Negative Preference Optimization, arXiv 2404.05868.
  """

  def term(logits, draw, context, hyper):
    # On the augmented images of the step: answers to the plain ones would not
    # be comparable.
    original = network.model.apply(context, draw.image)
    loss = metrics.cross_entropy(logits, draw.label)
    ratio = metrics.cross_entropy(original, draw.label) - loss
    return preference_loss(ratio, hyper['beta']).mean()

  phase = objectives.forget_phase(network.model, term, training.batch_size)
  return finetuning.method(
    descent.Recipe((phase,), training.optimizer, network.inputs),
    training.steps,
    'NPO',
    grid=finetuning.grid_points('beta', betas),
    prepare=finetuning.prepare_teacher,
  )
