r"""NPO: negative preference optimisation on S_f beside training on R.

  theta_u = argmin over theta from theta_o of
    CE(R) - (2 / beta) mean over S_f of
            log sigmoid(-beta log(p(y | x; theta) / p(y | x; theta_o)))

Its gradient on a sample is that of ascent times 2 p^beta / (p^beta + p_o^beta):
1 at theta_o, towards 0 as the label is unlearned, and 1 throughout, which is
ascent, as beta goes to 0.
"""

import jax
import optax
from jaxtyping import Array, Float

from cmu_jax.core.types import InputStep, Method, Model
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent, losses


def preference(
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
    now = losses.cross_entropy(logits, draw.label)
    ratio = losses.cross_entropy(before, draw.label) - now
    return preference(ratio, hyper['beta']).mean()

  phase = descent.Phase(
    objectives.with_retain(model, term), objectives.both(batch_size)
  )
  return finetuning.fine_tuning(
    descent.Recipe((phase,), optimizer, inputs),
    steps,
    'NPO',
    grid=finetuning.points('beta', betas),
    prepare=finetuning.teacher,
  )
