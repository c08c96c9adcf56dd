"""Advice where a repair abstains: the inputs that would help most, in order.

Every figure is an estimate on the network at hand, or a measurement in
`results/` that the sentence names.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from cmu_jax.commands.repair import edit, unlabelled_words
from cmu_jax.commands.repair.subject import RepairCase
from cmu_jax.commands.requests import RepairRequest
from cmu_jax.core import rng
from cmu_jax.core.types import Batch, Info, Training, Variables
from cmu_jax.data import splits
from cmu_jax.training import metrics, optimizers, train

# Halves of fewer pictures estimate nothing.
_LEAST = 40
_STEPS = 200


# Of a small network on digits with 40 % wrong labels: bad samples -> accuracy
# after a repair by the default rule, a mean of three seeds. 0 is no repair.
SAMPLES_SOURCE = 'results/bad_samples_digits.json'
SAMPLES = {0: 0.725, 50: 0.737, 100: 0.725, 500: 0.826}


class Figure(NamedTuple):
  """A gain that was measured elsewhere.

  Attributes:
    before: mean over seeds.
    after: likewise.
    source: file of the numbers.
  """

  before: float
  after: float
  source: str


# Of a ResNet-20 on CIFAR-10: 40 % wrong labels or a trigger, and 500 pictures.
_SOURCE = 'results/repair_resnet20.json'
FIGURES = {
  'clean': Figure(0.712, 0.844, _SOURCE),
  'published': Figure(0.712, 0.748, _SOURCE),
  'ordinary': Figure(0.961, 0.086, _SOURCE),
  'published_poison': Figure(0.891, 0.684, _SOURCE),
  'clean_poison': Figure(0.961, 0.951, _SOURCE),
}


def estimate_clean(
  request: RepairRequest, case: RepairCase, edited: Variables
) -> Info | None:
  """Estimates the gain of fine-tuning on clean labels, on this network.

  Trains on each half of the labelled pictures and measures on the other half.

  Args:
    request: the user's flags.
    case: network and samples.
    edited: the result of the repair.

  Returns:
    The number of labels, accuracy before and after, and the source of the
    pictures; None if the network was edited, or if labels are too few.
  """
  network = case.network
  pairs = zip(
    jax.tree.leaves(network.variables), jax.tree.leaves(edited), strict=True
  )
  labelled = case.bad if request.labels == 'true' else case.test
  if (
    request.kind == 'poison'
    or labelled is None
    or labelled.label.shape[0] < _LEAST
    or not all(np.array_equal(x, y) for x, y in pairs)
  ):
    return None
  count = labelled.label.shape[0] // 2
  # A rate that the user chose may be that of another optimizer.
  by_cuts = not edit.is_unlabelled(request)
  rate = optimizers.constant_schedule(
    request.learning_rate if by_cuts and request.learning_rate else 5e-4
  )
  training = Training(
    optimizers.adamw(rate),
    _STEPS,
    min(edit.choose_batch_size(request), count),
  )
  # Folders are sorted by class: every other picture is a balanced half.
  halves = [splits.take(labelled, np.arange(i, 2 * count, 2)) for i in (0, 1)]
  accuracies = []
  for i, (half, others) in enumerate(zip(halves, halves[::-1], strict=True)):
    tuned = train.fit(
      rng.fold_in(rng.fold_in(request.seed, 'clean'), i),
      network.classifier,
      network.variables,
      half,
      training,
    ).variables
    accuracies.append(
      [_accuracy(case, v, others) for v in (network.variables, tuned)]
    )
  before, after = np.mean(accuracies, axis=0).tolist()
  source = '--proxy' if request.labels == 'true' else '--test'
  return {'labels': count, 'before': before, 'after': after, 'source': source}


def _accuracy(case: RepairCase, variables: Variables, batch: Batch) -> float:
  predicted = metrics.predict(case.network.classifier, variables, batch, 256)
  return float(np.mean(predicted == np.asarray(batch.label)))


def sentences(results: dict[str, Any]) -> list[str]:
  """The inputs that would help most, the most helpful first; [] if edited."""
  if results['repaired']:
    return []
  if results['method'] == unlabelled_words.TUNING:
    return unlabelled_words.tuning_advice(results)
  if results['kind'] == 'poison':
    return _poison_sentences(results)
  options = [_clean_option(results.get('clean_estimate'))]
  if results['method'] == unlabelled_words.METHOD:
    return [*unlabelled_words.advise(results), *(text for _, text in options)]
  published = FIGURES['published']
  gain = published.after - published.before
  if results['safe']:
    options.append(
      (
        gain,
        '--rule=published edits without this evidence: it gained '
        f'{100 * gain:.1f} points on a ResNet-20 '
        f'({published.source}), and harmed 5 of 60 small networks '
        '(results/safe_alpha_digits.json).',
      )
    )
  options.append(_sample_option(results['samples']))
  return [text for _, text in sorted(options, reverse=True)]


def _sample_option(count: int) -> tuple[float, str]:
  """The gain of more bad samples than these, and its sentence."""
  most, base = max(SAMPLES), SAMPLES[0]
  if count >= most:
    return 0.0, f'More than {most} bad samples: their gain was not measured.'
  # The nearest smaller number that was measured.
  given = max(number for number in SAMPLES if number <= count)
  texts = [
    f'{SAMPLES[number]:.3f} with {number}' for number in SAMPLES if number
  ]
  return SAMPLES[most] - SAMPLES[given], (
    f'More bad samples than {count}: this rule brought a small network from '
    f'{base:.3f} to {", ".join(texts)} ({SAMPLES_SOURCE}, not your network).'
  )


def _clean_option(estimate: Info | None) -> tuple[float, str]:
  """The gain of clean labels, and its sentence."""
  if estimate is None:
    figure = FIGURES['clean']
    return figure.after - figure.before, (
      'Clean labels: fine-tuning on 500 brought a ResNet-20 with 40 % wrong '
      f'labels from {figure.before:.3f} to {figure.after:.3f} '
      f'({figure.source}, not your network). With --test or --labels=true the '
      'gain is estimated on yours.'
    )
  gain = estimate['after'] - estimate['before']
  verb = 'brings' if gain > 0 else 'would not help: it brings'
  return gain, (
    f'Clean labels: fine-tuning on {estimate["labels"]} pictures of '
    f'{estimate["source"]} {verb} this network from {estimate["before"]:.3f} '
    f'to {estimate["after"]:.3f} on the other half (an estimate on your '
    'network, both halves in turn).'
  )


def _poison_sentences(results: dict[str, Any]) -> list[str]:
  """Advice against a trigger that stays."""
  # Nothing has to be removed from a network that the trigger does not fool.
  if round(results['measured']['before']['bad_label_rate'], 2) <= 0.01:
    return []
  ordinary, clean = FIGURES['ordinary'], FIGURES['clean_poison']
  advice = []
  if results['method'] != 'projected':
    advice.append(
      'Ordinary pictures without the trigger and without labels '
      '(--ordinary=FOLDER): 500 lowered the attack success of a ResNet-20 from '
      f'{ordinary.before:.3f} to {ordinary.after:.3f} ({ordinary.source}, not '
      'your network).'
    )
  if results.get('rule') == 'safe' and results['method'] == 'cuts':
    cost = FIGURES['published_poison']
    advice.append(
      '--rule=published edits from the triggered pictures alone: accuracy '
      f'{cost.before:.3f} became {cost.after:.3f} there ({cost.source}).'
    )
  return [
    *advice,
    'Clean labels help little against a trigger: fine-tuning on 500 left '
    f'{clean.after:.3f} of {clean.before:.3f} there ({clean.source}).',
  ]
