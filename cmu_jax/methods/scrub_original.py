r"""SCRUB as published: away from the teacher on S_f, towards it on R.

  R:    min  gamma CE + alpha KD
  S_f:  max  KD

KD is as in `scrub`. An epoch of S_f goes before each of the first epochs of R;
the rest of the steps are of R alone.
"""

import optax

from cmu_jax.core.types import InputStep, Method, Model
from cmu_jax.methods import finetuning, teachers
from cmu_jax.training import descent


def scrub_original(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  forget_batch_size: int | None = None,
  max_epochs: int = 2,
  temperature: float = 4.0,
  gammas: tuple[float, ...] = (0.99,),
  alphas: tuple[float, ...] = (0.001, 0.01, 0.5),
) -> Method:
  """SCRUB with the teacher alone to move away from.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of both phases; published runs take Adam or SGD at 5e-4.
    steps: of both phases together; published runs take 3 to 10 epochs.
    batch_size: of R; published runs take 128.
    forget_batch_size: of S_f, 32 in published runs; None for `batch_size`.
    max_epochs: how many epochs of S_f there are, 2 or 3 in published runs.
    temperature: T, 2 or 4 in published runs.
    gammas: of the grid; 0.99, 1 and 99 in published runs.
    alphas: of the grid, named 'scrub_alpha'.

  References:
    Towards Unbounded Machine Unlearning, arXiv 2302.09880.
  """
  forget_size = forget_batch_size or batch_size
  up = teachers.distilled(
    model, 'forget', lambda hyper: (0.0, -1.0), temperature
  )
  down = teachers.distilled(
    model,
    'retain',
    lambda hyper: (hyper['gamma'], hyper['scrub_alpha']),
    temperature,
  )
  recipe = descent.Recipe(
    (
      descent.Phase(up, (('forget', forget_size),)),
      descent.Phase(down, (('retain', batch_size),)),
    ),
    optimizer,
    inputs,
  )

  def start(key, variables, given, prepared):
    del key
    epochs = teachers.epoch_steps(given, forget_size, batch_size)
    plan = teachers.alternate(
      steps, *epochs, lambda epoch, step: epoch < max_epochs
    )
    streams = {'forget': given.forget, 'retain': given.retain}
    return finetuning.Start(variables, streams, plan, prepared)

  grid = tuple({'gamma': g, 'scrub_alpha': a} for g in gammas for a in alphas)
  return finetuning.fine_tuning(
    recipe,
    steps,
    'published SCRUB',
    grid=grid,
    prepare=finetuning.teacher,
    start=start,
  )
