r"""S_f under other labels: random ones, the runners-up, in salient weights.

random_label    y' ~ uniform on the classes other than the trained label,
                drawn once (amnesiac unlearning)
relabel_second  y' = argmax over c other than the trained label of
                f_c(x; theta_o)

theta_u = argmin over theta from theta_o of CE(R) + weight CE(S_f, y')

salun           theta_u = theta_o + m (theta' - theta_o), theta' as in
                `random_label`, m = |d CE(S_f; theta_o) / d theta| above its
                median over all weights
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from cmu_jax.core import jit, rng
from cmu_jax.core.types import (
  Batch,
  Method,
  Network,
  PRNGKey,
  Training,
  Variables,
)
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent, metrics

WEIGHTS = (1.0, 0.1)
# Images at a time in passes over S_f before the training.
_BLOCK = 256


def draw_wrong_labels(
  key: PRNGKey, label: Int[Array, 'n'], classes: int
) -> Int[Array, 'n']:
  """Draws other classes than the labels, each as likely."""
  # A shift by 1 to k - 1 never returns the label, without any rejection.
  shift = jax.random.randint(key, label.shape, 1, classes, label.dtype)
  return (label + shift) % classes


def _relabel(
  network: Network,
  training: Training,
  title: str,
  draw_labels: Callable[[PRNGKey, Variables, Batch], Int[Array, 'n']],
  weights: tuple[float, ...],
  retain: bool = True,
  share: float | None = None,
) -> Method:
  """Fine-tunes on CE(R) + hyper['forget_weight'] CE(S_f) under other labels.

  Args:
    training: of the fine-tuning; the batch size is of either set.
    title: of the progress bar.
    draw_labels: the other labels, from theta_o and S_f.
    weights: the grid of 'forget_weight'.
    retain: False leaves out CE(R).
    share: of the weights that move; None for all.
  """

  # Batches of both sets have one size, so that S_f is seen more often than its
  # share of S_tr says; the weight of its term corrects that.
  def term(logits, draw, context, hyper):
    loss = objectives.cross_entropy_term(logits, draw, context, hyper)
    return hyper['forget_weight'] * loss

  phase = objectives.forget_phase(
    network.model, term, training.batch_size, retain=retain
  )
  # Steps are masked, not gradients: decay and momentum would move the rest.
  project = None if share is None else apply_mask

  def prepare(key, variables, data):
    batch = data.forget.batch
    label = draw_labels(key, variables, batch)
    forget = data.forget._replace(batch=batch._replace(label=label))
    if share is None:
      return forget, None
    return forget, mask_program(network, share)(variables, data.forget)

  def start(key, variables, data, prepared):
    del key
    forget, mask = prepared
    streams = {'retain': data.retain} if retain else {}
    # The gradient that a mask comes from is that of all of S_f.
    spent = 0 if mask is None else int(np.asarray(data.forget.valid).sum())
    return descent.Start(
      variables, {**streams, 'forget': forget}, training.steps, mask, spent
    )

  return finetuning.method(
    descent.Recipe((phase,), training.optimizer, network.inputs, project),
    training.steps,
    title,
    grid=finetuning.grid_points('forget_weight', weights),
    prepare=prepare,
    start=start,
  )


@finetuning.check_settings
def random_label(
  network: Network,
  training: Training,
  *,
  weights: tuple[float, ...] = WEIGHTS,
  retain: bool = True,
  share: float | None = None,
) -> Method:
  """Overwrites the labels of S_f with noise; in its salient weights as SalUn.

  Args:
    training: of the fine-tuning; the batch size is of either set.
    weights: the grid of 'forget_weight'.
    retain: False trains on S_f alone.
    share: of the weights that move in SalUn, whose published grid is 0.1 to
      0.9; None for all weights.

  References:
    Amnesiac Machine Learning, arXiv 2010.10981; SalUn, arXiv 2310.12508: share
    1/2, the mask on gradients.
  """

  def draw_labels(key, variables, batch):
    classes = metrics.count_classes(network, variables, batch.image)
    return draw_wrong_labels(rng.fold_in(key, 'labels'), batch.label, classes)

  title = 'random labels on S_f' if share is None else 'SalUn'
  return _relabel(network, training, title, draw_labels, weights, retain, share)


def runner_up(
  logits: Float[Array, 'n k'], label: Int[Array, 'n']
) -> Int[Array, 'n']:
  """The likeliest class other than the label."""
  labelled = label[:, None] == jnp.arange(logits.shape[-1])[None, :]
  second = jnp.argmax(jnp.where(labelled, -jnp.inf, logits), -1)
  return second.astype(label.dtype)


@functools.lru_cache(maxsize=32)
def _runner_up_program(network: Network) -> Callable:
  """A jitted function (variables, batch) -> the runners-up [n]."""

  def relabel(variables, batch):
    def relabel_row(row):
      single = jax.tree.map(lambda x: x[None], row)
      image = network.inputs.eval(single.image, single.has_trigger)
      logits = network.model.apply(variables, image)
      return runner_up(logits, single.label)[0]

    return jax.lax.map(relabel_row, batch, batch_size=_BLOCK)

  return jit.compile_loop(relabel)


@finetuning.check_settings
def relabel_second(
  network: Network,
  training: Training,
  *,
  weights: tuple[float, ...] = WEIGHTS,
) -> Method:
  """Moves S_f across the nearest boundary of theta_o.

  Between two confused classes the runner-up is the true one. Ours, close to
  boundary shrink (Boundary Unlearning, arXiv 2303.11570), which asks theta_o
  about a perturbed image.

  Args:
    training: of the fine-tuning; the batch size is of either set.
    weights: the grid of 'forget_weight'.
  """

  def draw_labels(key, variables, batch):
    del key
    return _runner_up_program(network)(variables, batch)

  title = 'runner-up labels on S_f'
  return _relabel(network, training, title, draw_labels, weights)


@functools.lru_cache(maxsize=32)
def _gradient_program(network: Network) -> Callable:
  """A jitted function (variables, samples) -> d CE(S_f) / d theta."""
  model, inputs = network

  def gradient(variables, samples):
    def mean_loss(params):
      # Without a checkpoint, the activations of all of S_f would be kept.
      @jax.checkpoint
      def row_loss(row):
        batch = jax.tree.map(lambda x: x[None], row.batch)
        image = inputs.eval(batch.image, batch.has_trigger)
        logits = model.apply(Variables(params, variables.batch_stats), image)
        return metrics.cross_entropy(logits, batch.label)[0] * row.valid

      losses = jax.lax.map(row_loss, samples, batch_size=_BLOCK)
      return losses.sum() / samples.valid.sum()

    return jax.grad(mean_loss)(variables.params)

  return jit.compile_loop(gradient)


def salient_mask(gradient: PyTree, share: float) -> PyTree:
  """Masks of the weights with the largest gradients.

  Args:
    gradient: a tree of arrays, compared with each other across the tree.
    share: of the weights; 1/2 takes all above the median.
  """
  # One threshold for all layers, as published: some layers move as a whole.
  magnitude = jax.tree.map(jnp.abs, gradient)
  values = jnp.concatenate([x.ravel() for x in jax.tree.leaves(magnitude)])
  threshold = jnp.quantile(values, 1 - share)
  return jax.tree.map(lambda x: x > threshold, magnitude)


def apply_mask(tree: PyTree, mask: PyTree) -> PyTree:
  """Sets a tree to 0 outside a mask: a `project` of `descent.Recipe`."""
  return jax.tree.map(lambda x, m: jnp.where(m, x, 0), tree, mask)


# Cached, because several methods mask the same share of one network.
@functools.lru_cache(maxsize=32)
def mask_program(network: Network, share: float) -> Callable:
  """A function (variables, S_f) -> the mask of the weights S_f depends on.

  Args:
    network: the model, in evaluation mode, and its input step.
    share: of the weights.
  """
  choose = jit.compile_cheaply(functools.partial(salient_mask, share=share))
  gradient = _gradient_program(network)
  return lambda variables, samples: choose(gradient(variables, samples))
