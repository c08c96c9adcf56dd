r"""A repair from unlabelled pictures with evidence: two runs and their mean.

  theta_a = IM(theta_o, half a),  theta_b = IM(theta_o, half b)
  theta_u = (theta_a + theta_b) / 2  if `agreement.judge` takes it, else theta_o

Both runs start at theta_o and stay near it, so the mean of their weights is a
network too. In our trials it is better than either run and than a single run on
all pictures where these are few. The combination is ours.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cmu_jax.core import errors, rng, store
from cmu_jax.core.types import (
  Info,
  Method,
  MethodInputs,
  Network,
  PRNGKey,
  Result,
  Samples,
  Training,
  Variables,
)
from cmu_jax.methods import finetuning
from cmu_jax.methods.unlabelled import agreement, information_maximization
from cmu_jax.training import batch_norm, descent, metrics

# The statistics of BatchNorm need two pictures in each half.
LEAST = 4
# Lengths of the step from theta_o to a run, in the curve of a report.
ALPHAS = tuple(np.linspace(0.0, 1.5, 7).tolist())

_HALVES = ('run_a', 'run_b')
# Name of a half -> its checkpoint, or None for none.
MakeCheckpoint = Callable[[str], store.Checkpoint | None]


class Runs(NamedTuple):
  """Networks adapted to disjoint halves of the pictures.

  Attributes:
    run_a: adapted to one half.
    run_b: adapted to the other half.
    gradient_evaluations: gradients of single images in both.
    predicted: classes of all pictures before, after run a and after run b.
    rows: positions of the pictures of each half, [2, n // 2].
  """

  run_a: Variables
  run_b: Variables
  gradient_evaluations: int
  predicted: tuple[np.ndarray, np.ndarray, np.ndarray]
  rows: np.ndarray


def run_halves(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  samples: Samples,
  method: Method,
  make_checkpoint: MakeCheckpoint = lambda name: None,
) -> Runs:
  """Adapts a network to each half of the pictures.

  Args:
    key: draws the halves and the order of pictures.
    network: the model and its input step.
    variables: of the network before.
    samples: n pictures; with odd n a single picture is left out.
    method: takes a batch of at most n / 2, of 'ordinary' or 'clean_proxy'.
    make_checkpoint: see `MakeCheckpoint`.

  Raises:
    UserError: fewer than 4 pictures.
  """
  rows = np.flatnonzero(np.asarray(samples.valid))
  errors.check(
    rows.size >= LEAST,
    f'{rows.size} ordinary pictures are too few; give {LEAST} or more',
  )
  order = np.asarray(jax.random.permutation(rng.fold_in(key, 'halves'), rows))
  half = rows.size // 2
  parts = np.sort(order[: 2 * half].reshape(2, half), axis=1)
  results = []
  for name, chosen in zip(_HALVES, parts, strict=True):
    subset = descent.gather_samples(samples.batch, chosen, half, False)
    # Pictures with true labels are a batch, without padding.
    sets: Any = {
      need: subset.batch if need == 'clean_proxy' else subset
      for need in method.needs
    }
    data = MethodInputs(**sets)
    run_key = rng.fold_in(key, name)
    prepared = method.prepare(run_key, variables, data)
    results.append(
      method.solve(
        run_key, variables, data, prepared, {}, make_checkpoint(name)
      )
    )
  (run_a, info_a), (run_b, info_b) = results
  spent = info_a['gradient_evaluations'] + info_b['gradient_evaluations']
  # Once, because the verdict, its curve and the estimates all compare them.
  before, after_a, after_b = (
    metrics.predict(network, v, samples.batch, 256)
    for v in (variables, run_a, run_b)
  )
  return Runs(run_a, run_b, spent, (before, after_a, after_b), parts)


@jax.jit
def move(
  start: Variables, end: Variables, alpha: float | jax.Array
) -> Variables:
  """The network at start + alpha (end - start), its statistics included."""
  # Whole numbers, such as counters, have no point between them.
  return jax.tree.map(
    lambda a, b: (
      (a + alpha * (b - a)).astype(a.dtype)
      if jax.numpy.issubdtype(a.dtype, jax.numpy.floating)
      else b
    ),
    start,
    end,
  )


def mean(runs: Runs) -> Variables:
  """The mean of both networks, weight by weight."""
  return move(runs.run_a, runs.run_b, 0.5)


def trace(
  network: Network,
  variables: Variables,
  runs: Runs,
  samples: Samples,
  alphas: Sequence[float] = ALPHAS,
) -> dict[str, np.ndarray]:
  """Changed predictions along the way from theta_o to both runs.

  Args:
    network: the model and its input step.
    variables: theta_o.
    runs: see `run_halves`.
    samples: the pictures of the runs.
    alphas: lengths of the step; 1 is a run.

  Returns:
    'alpha', 'alike' (share of predictions that both runs change, and to the
    same class) and 'alone' (share that a run changes otherwise), each [a].
  """
  original, shares = runs.predicted[0], []
  for alpha in alphas:
    # At 1 the rounding of a step may differ from the run itself.
    run_a, run_b = (
      metrics.predict(network, move(variables, end, alpha), samples.batch, 256)
      if alpha
      else original
      for end in (runs.run_a, runs.run_b)
    )
    shares.append(agreement.changes(original, run_a, run_b))
  alike, alone = np.transpose(shares)
  return {'alpha': np.asarray(alphas), 'alike': alike, 'alone': alone}


# One object a network, so that its compilations are shared.
@functools.lru_cache(maxsize=32)
def _control_network(network: Network) -> Network:
  """The network that a control sees: its pictures are those of the runs."""
  key = rng.fold_in(0, 'control')
  return information_maximization.augment_evaluation(key, network)


def judge_runs(
  network: Network,
  variables: Variables,
  runs: Runs,
  samples: Samples,
  rule: agreement.Rule = agreement.RULE,
) -> agreement.Evidence:
  """Judges two runs on their pictures; see `agreement.judge`."""
  # The statistics that a run brings about without a step of its weights.
  control = batch_norm.recalibrate(
    rng.fold_in(0, 'control'),
    _control_network(network),
    variables,
    samples.batch,
  )
  shifted = metrics.predict(network, control, samples.batch, 256)
  classes = metrics.count_classes(network, variables, samples.batch.image)
  return agreement.judge(*runs.predicted, classes, rule, shifted)


def estimate_accuracy(
  network: Network, variables: Variables, runs: Runs, samples: Samples
) -> float:
  """Estimates the accuracy of a network: how often both runs agree with it.

  Args:
    network: the model and its input step.
    variables: of a network that neither run was made from pictures of.
    runs: see `run_halves`.
    samples: the pictures of the runs.

  References:
    Assessing Generalization of SGD via Disagreement, arXiv 2106.13799.
  """
  predicted = metrics.predict(network, variables, samples.batch, 256)
  return float(np.mean([predicted == run for run in runs.predicted[1:]]))


@finetuning.check_settings
def safe_information_maximization(
  network: Network,
  training: Training,
  *,
  rule: agreement.Rule = agreement.RULE,
  prior: Sequence[float] | None = None,
  freeze_head: bool = True,
) -> Method:
  """Adapts to both halves, and takes the mean where the runs agree.

  Args:
    network: the model and its input step.
    training: of a run; a batch of at most half of the pictures.
    rule: see `agreement.Rule`.
    prior: see `information_maximization`.
    freeze_head: likewise.

  Returns:
    The method. Its info has 'evidence' (`agreement.Evidence`) besides.

  Raises:
    UserError: when called, fewer than 4 pictures.
  """
  adapt = information_maximization.information_maximization(
    network, training, prior=prior, freeze_head=freeze_head
  )

  def solve(
    key: PRNGKey,
    variables: Variables,
    data: Any,
    prepared: Any,
    hyper: Any,
    make_checkpoint: MakeCheckpoint = lambda name: None,
  ) -> Result:
    del prepared, hyper
    samples = data.ordinary
    runs = run_halves(key, network, variables, samples, adapt, make_checkpoint)
    evidence = judge_runs(network, variables, runs, samples, rule)
    info: Info = {
      'gradient_evaluations': runs.gradient_evaluations,
      'evidence': evidence,
      'runs': runs,
    }
    return (mean(runs) if evidence.repaired else variables), info

  return Method(adapt.needs, lambda key, variables, data: None, solve)
