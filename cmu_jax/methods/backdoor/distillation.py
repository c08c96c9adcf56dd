r"""Self-distillation on a trigger, and its task vector, projected.

  y_i     = argmax f(x_i; theta_mix)                         untriggered pool
  theta_h = Finetune(theta_mix, {(x_i + trigger, y_i)} and, optionally,
                                {(x_i, y_i)})

The network's own predictions on untriggered copies are the targets of the
triggered ones. Self-distillation returns theta_h, the baseline of the same
information. The projected method subtracts a task vector:

  tau     = theta_mix - theta_h                        on eligible parameters
  theta_u = theta_mix - alpha_hat P tau

P shrinks tau, layer by layer, along the sensitivity of the untriggered
predictions (`sensitivity`), so that the target class is not deleted together
with the trigger. alpha_hat minimises, over the grid,

  J(alpha) = mean over pool of CE(p(x), f(x; alpha)) + CE(p(x), f(x + trigger))

with p = softmax f(x; theta_mix), among the alphas at which the proxy attack
success rounds to the threshold or less. The model stays as it is if no alpha
qualifies, or if the best one agrees with theta_mix on too few untriggered
images.

References:
  Subtract the Corruption (arXiv 2511.18660): task vectors from a triggered
  proxy, and the threshold. The projection and J are ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt8

from cmu_jax.core import errors, jit, rng, store, tree
from cmu_jax.core.types import (
  Batch,
  Method,
  Network,
  PRNGKey,
  Result,
  Training,
  Variables,
)
from cmu_jax.methods import finetuning
from cmu_jax.methods.backdoor import sensitivity
from cmu_jax.methods.cuts import alpha_rules, alpha_search
from cmu_jax.training import descent, metrics, train

# mu of P as a share of the mean eigenvalue of a layer's sensitivity.
_DAMPING = 0.3


def predict_untriggered(
  network: Network, variables: Variables, image: UInt8[Array, 'n h w c']
) -> Int[Array, 'n']:
  """Predicts the classes of untriggered images."""
  blank = descent.blank_batch(image)
  return jnp.asarray(metrics.predict(network, variables, blank))


def triggered_copies(
  image: UInt8[Array, 'n h w c'], label: Int[Array, 'n'], untriggered: bool
) -> Batch:
  """Triggered copies of a pool under given labels, [n], or both, [2 n].

  Args:
    image: the pool.
    label: of the untriggered images.
    untriggered: appends the untriggered copies.
  """
  triggered = jnp.ones(label.shape, bool)
  if not untriggered:
    return Batch(image, label, triggered)
  return Batch(
    jnp.concatenate([image, image]),
    jnp.concatenate([label, label]),
    jnp.concatenate([triggered, ~triggered]),
  )


@finetuning.check_settings
def self_distillation(
  network: Network,
  training: Training,
  *,
  untriggered: bool = True,
  checkpoint: store.Checkpoint | None = None,
) -> Method:
  """Fine-tunes triggered copies to the predictions on the untriggered ones.

  Args:
    untriggered: also shows the untriggered copies, under the same predictions.
    checkpoint: saves the fine-tuning.

  Returns:
    A method that sees the images of a proxy, and not its labels. Its info has
    'fit' besides.
  """
  # Half of the pool carries the trigger: statistics of BatchNorm would drift
  # towards it.
  model = finetuning.freeze_statistics(network.model)

  def solve(key, variables: Variables, data, prepared, hyper) -> Result:
    del prepared, hyper
    image = data.proxy.image
    label = predict_untriggered(network, variables, image)
    copies = triggered_copies(image, label, untriggered)
    fit = train.fit(
      key,
      network._replace(model=model),
      variables,
      copies,
      training,
      train.Session('distillation of untriggered predictions', checkpoint),
    )
    # A pool that is smaller than a batch is used once a step.
    images = min(training.batch_size, copies.label.shape[0])
    cost = len(fit.history) * images
    return fit.variables, {'gradient_evaluations': cost, 'fit': fit}

  return Method(('proxy',), lambda *_: None, solve)


class Rule(NamedTuple):
  """The rule that chooses alpha.

  Attributes:
    target: the class that the trigger leads to.
    threshold: largest proxy attack success rate, rounded to two decimals.
    agreement: least share of untriggered images whose prediction stays.
    alphas: the grid; None for 60 geometric steps from 0.1 to 30.
  """

  target: int = 0
  threshold: float = 0.01
  agreement: float = 0.98
  alphas: tuple[float, ...] | None = None


def _logits_only(
  features: Float[Array, 'n d'], logits: Float[Array, 'n k']
) -> Float[Array, 'n k']:
  del features
  return logits


def _cross_entropy(
  target_logits: Float[np.ndarray, 'n k'], logits: Float[np.ndarray, 'a n k']
) -> Float[np.ndarray, 'a']:
  """The mean over n of CE(softmax target, softmax logits)."""
  target = np.asarray(jax.nn.softmax(target_logits, axis=-1))
  log_p = np.asarray(jax.nn.log_softmax(logits, axis=-1))
  return -(target[None] * log_p).sum(-1).mean(-1)


def choose_alpha(
  untriggered: Float[np.ndarray, 'a n k'],
  triggered: Float[np.ndarray, 'a n k'],
  reference_logits: Float[np.ndarray, 'n k'],
  rule: Rule,
  alphas: Float[np.ndarray, 'a'],
) -> tuple[alpha_rules.AlphaChoice, dict[str, Float[np.ndarray, 'a']]]:
  """Chooses alpha_hat by the logits of the edited networks on a pool.

  Args:
    untriggered: logits by alpha on the pool as it is.
    triggered: likewise on its triggered copies.
    reference_logits: of theta_mix on the pool as it is.
    rule: conditions on alpha.
    alphas: the grid.

  Returns:
    The choice, and the curve: 'alpha', 'J', 'proxy_attack_success_rate' (of
    images that theta_mix does not already give to the target) and 'agreement'.

  Raises:
    UserError: theta_mix gives every image of the pool to the target.
  """
  reference = reference_logits.argmax(-1)
  # An image of the target class stays there without any trigger.
  others = reference != rule.target
  errors.check(
    others.any(),
    f'the model predicts class {rule.target}, the target, for all '
    f'{reference.size} proxy images; use images of other classes',
  )
  hit = triggered.argmax(-1)[:, others] == rule.target
  rate = hit.mean(-1)
  agreement = (untriggered.argmax(-1) == reference[None]).mean(-1)
  J = _cross_entropy(reference_logits, untriggered) + _cross_entropy(
    reference_logits, triggered
  )
  # Rates are rounded as in CUTS, so that thresholds mean the same.
  allowed = (np.round(rate, 2) <= rule.threshold) & np.isfinite(J)
  curve = {
    'alpha': alphas,
    'J': J,
    'proxy_attack_success_rate': rate,
    'agreement': agreement,
  }
  position = int(np.argmin(np.where(allowed, J, np.inf)))
  if not allowed.any() or agreement[position] < rule.agreement:
    return alpha_rules.ABSTENTION, curve
  return alpha_rules.AlphaChoice(float(alphas[position]), position, True), curve


def subtract_projected(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  image: UInt8[Array, 'n h w c'],
  tau: PyTree,
  rule: Rule,
) -> Result:
  """Subtracts alpha_hat P tau, for any task vector of a trigger.

  Args:
    key: of the sensitivity.
    image: the pool.
    rule: conditions on alpha.

  Returns:
    theta_u, and 'alpha', 'selected', 'position', 'curve' and 'tau' (P tau).
  """
  plain, marked = (
    network.inputs.eval(image, trigger)
    for trigger in (None, jnp.ones(image.shape[0], bool))
  )
  moments = sensitivity.estimate_sensitivity(
    rng.fold_in(key, 'sensitivity'), network.model, variables, plain
  )
  projected = jit.compile_cheaply(sensitivity.project_vector)(
    tau, moments, _DAMPING
  )
  alphas = np.geomspace(0.1, 30, 60) if rule.alphas is None else rule.alphas
  grid = np.asarray(alphas, np.float64)
  # One curve for both halves, which compiles and draws one bar of progress.
  logits = np.asarray(
    alpha_search.curve(
      *(network.model, variables, projected),
      jnp.concatenate([plain, marked]),
      jnp.asarray(grid, jnp.float32),
      _logits_only,
    )
  )
  size = plain.shape[0]
  apply = jit.compile_cheaply(network.model.apply)
  choice, curve = choose_alpha(
    logits[:, :size],
    logits[:, size:],
    np.asarray(apply(variables, plain)),
    rule,
    grid,
  )
  params = tree.edit(variables.params, projected, choice.alpha)
  info = {**choice._asdict(), 'curve': curve, 'tau': projected}
  return Variables(params, variables.batch_stats), info


@finetuning.check_settings
def projected_distillation(
  network: Network,
  training: Training,
  *,
  rule: Rule | None = None,
  checkpoint: store.Checkpoint | None = None,
) -> Method:
  """Subtracts the projected task vector of a self-distillation.

  Args:
    rule: conditions on alpha.
    checkpoint: saves the fine-tuning.

  Returns:
    A method that sees the images of a proxy: no label, and not which images
    are in the proxy. Its info has those of `subtract_projected` and 'fit', the
    fine-tuning, besides.

  Raises:
    UserError: when called, if theta_mix gives all images to the target.
  """
  distil = self_distillation(network, training, checkpoint=checkpoint)

  def solve(key, variables: Variables, data, prepared, hyper) -> Result:
    del prepared, hyper
    tuned, costs = distil(key, variables, data)
    eligible = tree.edit_predicate(variables)
    # From the repaired to the poisoned network: subtraction repairs.
    tau = tree.task_vector(tuned.params, variables.params, eligible)
    image = data.proxy.image
    result, info = subtract_projected(
      key, network, variables, image, tau, rule or Rule()
    )
    return result, {**costs, **info}

  return Method(('proxy',), lambda *_: None, solve)
