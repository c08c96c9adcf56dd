"""Forgetting a backdoor with an estimate of its cost, and abstention.

A run of FST (`self_tuning`) on all ordinary pictures is the repaired network.
Two more runs see disjoint halves. Every picture is held out by one of them, so
they show what such a repair costs; it costs less with twice the pictures:

  agreement   the share of held-out pictures that keep their class
  accuracy    before and after on held-out pictures, if true labels are given

Nothing shows the gain: a trigger that nobody has cannot be tried. So the repair
is taken wherever its cost is small, on a clean network as well. It abstains
where the pictures lack a class, because nothing would then ask for this class,
and where too many predictions change. The rule is ours.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from cmu_jax.core.types import (
  Info,
  Method,
  Network,
  PRNGKey,
  Result,
  Samples,
  Training,
  Variables,
)
from cmu_jax.methods import finetuning
from cmu_jax.methods.backdoor import self_tuning
from cmu_jax.methods.unlabelled import agreement, halves
from cmu_jax.training import descent, metrics

LEARNING_RATE = 1e-2
STEPS = 150
BATCH_SIZE = 128


class Rule(NamedTuple):
  """The settings of `judge`.

  Attributes:
    agreement: least share of held-out predictions that stay, without labels.
      Digits reached .93 to .96 in trials. A ResNet-20 on 500 pictures reached
      .86: it lost 5 points of accuracy, and its trigger stayed.
    loss: largest loss of held-out accuracy, with true labels. Runs on halves
      of digits lost 2 to 5 points, and the ResNet-20 more than 5.
  """

  agreement: float = 0.9
  loss: float = 0.05


RULE = Rule()


class Evidence(NamedTuple):
  """The verdict on a repair.

  Attributes:
    repaired: whether the rule takes the repair.
    reason: '' or the reason against it: 'classes' or 'cost'.
    agreement: share of held-out predictions that stay, with its 95 % interval.
    accuracy_before: on held-out pictures with true labels; None without.
    accuracy_after: likewise after a run on the other half.
    absent: classes that the pictures do not show.
  """

  repaired: bool
  reason: str
  agreement: tuple[float, float, float]
  accuracy_before: float | None
  accuracy_after: float | None
  absent: tuple[int, ...]

  @property
  def record(self) -> Info:
    """The evidence as JSON."""
    return agreement.make_record(self)


def make_training(pictures: int, **changes: Any) -> Training:
  """The training that our trials settled on, for a number of pictures.

  Args:
    pictures: of a run; a batch has min(pictures, 128) of them.
    **changes: learning_rate, steps or batch_size; None for the default.
  """
  defaults = {
    'learning_rate': LEARNING_RATE,
    'steps': STEPS,
    'batch_size': BATCH_SIZE,
  }
  return finetuning.make_plain_training(pictures, defaults, changes)


def judge(
  original: Int[np.ndarray, 'n'],
  held_out: Int[np.ndarray, 'n'],
  classes: int,
  label: Int[np.ndarray, 'n'] | None = None,
  rule: Rule = RULE,
) -> Evidence:
  """Judges a repair by predictions on held-out pictures.

  Args:
    original: classes that the network predicts before.
    held_out: classes that the run predicts which has not seen the picture.
    classes: k.
    label: true classes; None if nobody gave them.
    rule: see `Rule`.
  """
  stays = (original == held_out).astype(float)
  # A class that nothing shows is a class that nothing keeps.
  shown = original if label is None else label
  absent = agreement.find_absent(shown, shown, classes)
  accuracies: tuple[float | None, float | None] = (None, None)
  loss = 0.0
  if label is not None:
    rates = [float(np.mean(x == label)) for x in (original, held_out)]
    accuracies = (rates[0], rates[1])
    loss = rates[0] - rates[1]
  # With labels, changes for the better are no cost.
  costly = stays.mean() < rule.agreement if label is None else loss > rule.loss
  reason = 'classes' if absent else 'cost' if costly else ''
  return Evidence(not reason, reason, _interval(stays), *accuracies, absent)


def _interval(values: Float[np.ndarray, 'n']) -> tuple[float, float, float]:
  """The mean with its 95 % interval, within 0 and 1."""
  mean, low, high = agreement.make_interval(*agreement.measure_mean(values))
  return mean, max(0.0, low), min(1.0, high)


def read_held_out(runs: halves.Runs) -> tuple[np.ndarray, np.ndarray]:
  """Reads what the run predicts which has not seen each picture.

  Returns:
    The rows of the pictures, and their predicted classes.
  """
  _, after_a, after_b = runs.predicted
  held_out = [after_b[runs.rows[0]], after_a[runs.rows[1]]]
  return runs.rows.reshape(-1), np.concatenate(held_out)


def trace(
  network: Network, variables: Variables, tuned: Variables, samples: Samples
) -> dict[str, np.ndarray]:
  """Predictions that stay along the way from a network to the tuned one.

  Returns:
    'alpha' (1 is the whole step) and 'agreement', each [a].
  """
  predict = lambda v: metrics.predict(network, v, samples.batch, 256)
  original = predict(variables)
  shares = [
    np.mean(original == predict(halves.move(variables, tuned, alpha)))
    for alpha in halves.ALPHAS
  ]
  return {'alpha': np.asarray(halves.ALPHAS), 'agreement': np.asarray(shares)}


def safe_self_tuning(
  network: Network,
  training: Training,
  *,
  form: str = 'fst',
  labelled: bool = False,
  rule: Rule = RULE,
) -> Method:
  """Tunes on all pictures, and takes the result where halves show its cost.

  Args:
    network: the model and its input step.
    training: of a run, see `make_training`.
    form: of `self_tuning.self_tuning`.
    labelled: reads true labels, those of the clean proxy.
    rule: see `Rule`.

  Returns:
    The method. Its info has 'evidence' (`Evidence`) and 'tuned', the run on
    all pictures, besides.

  Raises:
    UserError: when called, fewer than 4 pictures.
  """
  tune = self_tuning.self_tuning(
    network, training, form=form, labelled=labelled
  )

  def solve(
    key: PRNGKey,
    variables: Variables,
    data: Any,
    prepared: Any,
    hyper: Any,
    make_checkpoint: halves.MakeCheckpoint = lambda name: None,
  ) -> Result:
    del prepared, hyper
    samples = (
      descent.whole_batch(data.clean_proxy) if labelled else data.ordinary
    )
    runs = halves.run_halves(
      key, network, variables, samples, tune, make_checkpoint
    )
    rows, held_out = read_held_out(runs)
    original = runs.predicted[0][rows]
    label = np.asarray(samples.batch.label)[rows] if labelled else None
    classes = metrics.count_classes(network, variables, samples.batch.image)
    evidence = judge(original, held_out, classes, label, rule)
    # After the halves: a run that a user stops has the evidence soonest.
    context = tune.prepare(key, variables, data)
    tuned, costs = tune.solve(
      key, variables, data, context, {}, make_checkpoint('all')
    )
    spent = costs['gradient_evaluations'] + runs.gradient_evaluations
    info: Info = {
      'gradient_evaluations': spent,
      'evidence': evidence,
      'tuned': tuned,
    }
    return (tuned if evidence.repaired else variables), info

  return Method(tune.needs, lambda key, variables, data: None, solve)
