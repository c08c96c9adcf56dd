r"""Removes a trigger along what untriggered predictions do not need.

  theta_h = Distill(theta_mix): triggered and untriggered copies of the pool
            are fine-tuned to theta_mix's own predictions on untriggered ones
  tau     = theta_mix - theta_h                        on eligible parameters
  theta_u = theta_mix - alpha_hat P tau

P shrinks tau, layer by layer, along the sensitivity of the untriggered
predictions (`sensitivity`), so that the class to which the trigger leads is
not deleted with the trigger. alpha_hat minimises, over the grid,

  J(alpha) = mean over pool of CE(p(x), f(x; alpha)) + CE(p(x), f(x + trigger))

with p = softmax f(x; theta_mix), where the proxy attack success rounds to the
threshold or less. The model is left as it is where no alpha qualifies, or
where the winner agrees with theta_mix on too few untriggered images.

With `vector='attack'` tau is that of CUTS (triggered images to the target).

References:
  Subtract the Corruption (arXiv 2511.18660): task vectors from a triggered
  proxy, and the threshold. The projection and J are ours.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt8

from cmu_jax.core import errors, jit, rng, store, tree, vectorize
from cmu_jax.core.types import (
  Info,
  Model,
  Network,
  PRNGKey,
  Proxy,
  Training,
  Unlearner,
  Variables,
)
from cmu_jax.methods.backdoor import distillation, sensitivity
from cmu_jax.methods.cuts import algorithm, alpha_rules, alpha_search

Vector = Literal['repair', 'attack']


class Rule(NamedTuple):
  """How alpha is chosen.

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
  wanted: Float[np.ndarray, 'n k'], logits: Float[np.ndarray, 'a n k']
) -> Float[np.ndarray, 'a']:
  """The mean over n of CE(softmax wanted, softmax logits)."""
  share = np.asarray(jax.nn.softmax(wanted, axis=-1))
  logs = np.asarray(jax.nn.log_softmax(logits, axis=-1))
  return -(share[None] * logs).sum(-1).mean(-1)


def choose_alpha(
  untriggered: Float[np.ndarray, 'a n k'],
  triggered: Float[np.ndarray, 'a n k'],
  reference_logits: Float[np.ndarray, 'n k'],
  rule: Rule,
  alphas: Float[np.ndarray, 'a'],
) -> tuple[alpha_rules.AlphaChoice, dict[str, Float[np.ndarray, 'a']]]:
  """alpha_hat from the logits of the edited networks on a pool.

  Args:
    untriggered: logits by alpha on the pool as it is.
    triggered: likewise on its triggered copies.
    reference_logits: logits of theta_mix on the pool as it is.
    rule: what qualifies.
    alphas: the grid.

  Returns:
    The choice, and the curve: 'alpha', 'J', 'proxy_attack_success_rate' (of
    images that theta_mix does not already give to the target) and 'agreement'.

  Raises:
    UserError: theta_mix gives every image of the pool to the target.
  """
  own = reference_logits.argmax(-1)
  others = own != rule.target
  errors.check(
    others.any(),
    f'the model predicts class {rule.target}, the target, for all '
    f'{own.size} proxy images; use images of other classes',
  )
  hit = triggered.argmax(-1)[:, others] == rule.target
  rate = hit.mean(-1)
  agreement = (untriggered.argmax(-1) == own[None]).mean(-1)
  J = _cross_entropy(reference_logits, untriggered) + _cross_entropy(
    reference_logits, triggered
  )
  allowed = (np.round(rate, 2) <= rule.threshold) & np.isfinite(J)
  curve = {
    'alpha': alphas,
    'J': J,
    'proxy_attack_success_rate': rate,
    'agreement': agreement,
  }
  position = int(np.argmin(np.where(allowed, J, np.inf)))
  if not allowed.any() or agreement[position] < rule.agreement:
    return alpha_rules.AlphaChoice(0.0, None, False), curve
  return alpha_rules.AlphaChoice(float(alphas[position]), position, True), curve


def _attack_proxy(
  label: Int[Array, 'n'], image: UInt8[Array, 'n h w c'], target: int
) -> Proxy:
  """The proxy of CUTS as far as it is known without labels."""
  kept = jnp.flatnonzero(label != target)[None, :].astype(jnp.int32)
  return Proxy(
    image,
    kept,
    jnp.full(kept.shape, target, jnp.int32),
    jnp.ones(kept.shape, bool),
  )


def projected_distillation(
  network: Network,
  training: Training,
  *,
  rule: Rule | None = None,
  damping: float = 0.3,
  vector: Vector = 'repair',
  how: vectorize.Strategy | None = None,
  checkpoint: store.Checkpoint | None = None,
) -> Unlearner:
  """The projected repair as an unlearner: (key, theta_mix, Proxy) -> theta_u.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    rule: how alpha is chosen; `Rule()` by default.
    damping: how far P may go into what untriggered predictions need, see
      `sensitivity.project_vector`.
    vector: 'repair', as above; 'attack', the task vector of CUTS.
    how: how the grid is driven; None for the backend's best.
    checkpoint: where the fine-tuning saves itself.

  Returns:
    An unlearner. Of its problem, a `Proxy`, it sees the images only: no
    label, and not which images were kept. Its info holds 'alpha', 'selected',
    'position', 'curve', 'tau' (P tau) and 'fit', the fine-tuning.

  Raises:
    UserError: when called, if theta_mix gives all images to the target.
  """
  settings = Rule() if rule is None else rule

  def fine_tune(key, variables, problem, label):
    if vector == 'attack':
      seen = _attack_proxy(label, problem.image, settings.target)
      return algorithm.direction(
        key,
        network,
        variables,
        seen,
        how=how,
        checkpoint=checkpoint,
        training=training,
      )
    tuned, info = distillation.self_distillation(
      network, checkpoint=checkpoint, training=training
    )(key, variables, problem)
    part = tree.edit_predicate(variables)
    tau = tree.task_vector(tuned.params, variables.params, part)
    return tau, info['fit']

  def unlearn(
    key: PRNGKey, variables: Variables, problem: Any
  ) -> tuple[Variables, Info]:
    image = problem.image
    label = distillation.predict_untriggered(network, variables, image)
    tau, fitted = fine_tune(key, variables, problem, label)
    plain = network.inputs.eval(image, None)
    marked = network.inputs.eval(image, jnp.ones(label.shape, bool))
    moments = sensitivity.estimate_sensitivity(
      rng.fold_in(key, 'sensitivity'), network.model, variables, plain
    )
    narrow = jit.compile_cheaply(sensitivity.project_vector)(
      tau, moments, damping
    )
    choice, curve = _search_alpha(
      network.model, variables, narrow, plain, marked, settings, how
    )
    edited = Variables(
      tree.edit(variables.params, narrow, choice.alpha), variables.batch_stats
    )
    info = {**choice._asdict(), 'curve': curve, 'tau': narrow, 'fit': fitted}
    return edited, info

  return unlearn


def _search_alpha(
  model: Model,
  variables: Variables,
  tau: PyTree,
  plain: Float[Array, 'n h w c'],
  marked: Float[Array, 'n h w c'],
  rule: Rule,
  how: vectorize.Strategy | None,
) -> tuple[alpha_rules.AlphaChoice, dict[str, Float[np.ndarray, 'a']]]:
  """Logits of the edited networks along the grid, and the choice."""
  alphas = np.geomspace(0.1, 30, 60) if rule.alphas is None else rule.alphas
  grid = np.asarray(alphas, np.float64)
  logits = np.asarray(
    alpha_search.curve(
      model,
      variables,
      tau,
      jnp.concatenate([plain, marked]),
      jnp.asarray(grid, jnp.float32),
      _logits_only,
      how=how,
    )
  )
  size = plain.shape[0]
  before = np.asarray(jit.compile_cheaply(model.apply)(variables, plain))
  return choose_alpha(logits[:, :size], logits[:, size:], before, rule, grid)
