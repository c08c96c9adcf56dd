"""Order, names and looks of methods, problems and metrics."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import matplotlib
import numpy as np

from cmu_jax.methods import study_names

# Table 1 of the paper, from doing nothing to retraining.
PAPER = tuple(study_names.COLOURS)
# Of other methods: 4 dashes and 5 markers make 20 pairs, each in 5 colours.
_COLOURS = ('#009E73', '#6B5B95', '#56B4E9', '#9C6B30', '#8A8A00')
_MARKERS = 'os^Dv'
# Readers who cannot tell the colours can tell these.
_DASHES: tuple[tuple[float, ...], ...] = (
  (),
  (6, 2),
  (2, 1.5),
  (8, 2, 2, 2),
)
# The darkest part of the colour map is kept off: it looks like ink.
_SHADES = (0.15, 0.9)


class Look(NamedTuple):
  """The look of a method, the same in all figures of a report.

  Attributes:
    colour: as #rrggbb.
    dash: lengths of dashes and gaps in line widths; () for a solid line.
    marker: a matplotlib marker.
  """

  colour: str
  dash: tuple[float, ...]
  marker: str


class Metric(NamedTuple):
  """A quantity that can be shown.

  Attributes:
    name: of axes and table heads.
    says: one sentence on its meaning.
    kind: 'rate' (0 to 1), 'points', 'share' or 'cost'.
  """

  name: str
  says: str
  kind: str = 'rate'


METRICS = {
  'acc_corr': Metric(
    'Acc_corr',
    'Accuracy on unseen images of the affected kind, against true labels.',
  ),
  'acc_retain': Metric(
    'Acc_retain',
    'Accuracy on unseen images that the manipulation does not concern.',
  ),
  'retain_change': Metric(
    'change of Acc_retain [points]',
    'Acc_retain minus that of doing nothing with the same seed, in points.',
    'points',
  ),
  'corr_share': Metric(
    'Acc_corr / Acc_corr(U*)',
    'Acc_corr divided by that of U* with the same seed.',
    'share',
  ),
  'attack_success_rate': Metric(
    'attack success rate',
    'Share of triggered test images of other classes that are given the '
    'target class.',
  ),
  'accuracy_not_target': Metric(
    'Acc_corr, other classes',
    'Acc_corr without the images of the target class.',
  ),
  'clean_label_accuracy_sm': Metric(
    'clean-label accuracy on S_m',
    'Accuracy on the manipulated training images, against true labels.',
  ),
  'label_recovery': Metric(
    'label recovery on S_m',
    'Share of manipulated training images whose wrong label scores above '
    'another wrong one, beside networks that saw neither: 0.5 is chance, and '
    'rewod at 1, which never saw these labels, should be there.',
  ),
  'forget_changed': Metric(
    'changed on S_f',
    'Share of the identified samples that are given another class than before.',
  ),
  'forget_unlearned': Metric(
    'not as labelled on S_f',
    'Share of the identified samples that are given another class than the '
    'one they were trained with.',
  ),
}

SELECTIONS = {
  'paper': "chosen by the benchmark's rule on validation data",
  'oracle': (
    'chosen with knowledge of the results: the best Acc_corr with Acc_retain '
    'at most 1 point below doing nothing; no developer can do this'
  ),
}

_VALIDATIONS = {
  'test_half': (
    'Hyperparameters were chosen on one half of the test set; all numbers are '
    'of the other half.'
  ),
  'train_fifth': (
    'Hyperparameters were chosen on a stratified fifth of the training set '
    'that was held out; all numbers are of the test set.'
  ),
  'test': (
    'Hyperparameters were chosen on the very test images that are reported, '
    'as published: the numbers are optimistic.'
  ),
}


def assign_looks(methods: Iterable[str]) -> dict[str, Look]:
  """Assigns each method its look; those of the paper have fixed ones."""
  order = study_names.sort_names(study_names.CORRECTIVE, methods)
  looks = {
    method: Look(study_names.COLOURS[method], (), 'o')
    for method in order
    if method in PAPER
  }
  for i, method in enumerate(m for m in order if m not in PAPER):
    # Colours first: they are told apart more easily than dashes.
    turn, number = divmod(i, len(_COLOURS))
    dash = _DASHES[turn % len(_DASHES)]
    looks[method] = Look(_COLOURS[number], dash, _MARKERS[turn % len(_MARKERS)])
  return looks


def assign_shades(fractions: Iterable[float]) -> dict[float, Any]:
  """Assigns each identified fraction a colour of one sequence."""
  order = sorted(set(fractions))
  places = np.linspace(*_SHADES, max(len(order), 2))
  # With a single fraction, a place is left over.
  colours = map(matplotlib.colormaps['viridis_r'], places)
  return dict(zip(order, colours, strict=False))


def format_percent(share: float) -> str:
  """Formats '10 %'; as many digits as it takes, at most three."""
  return f'{100 * share:.3g} %'


def name_problem(problem: tuple[str, int]) -> str:
  """Names a problem in short: 'poison 600'."""
  return f'{problem[0]} {problem[1]}'


def _describe_classes(entry: dict[str, Any], names: list) -> str:
  """Describes the classes of a problem, if they were recorded."""
  target = entry.get('target')
  classes = [
    f"'{names[c]}'" if 0 <= c < len(names) else f'class {c}'
    for c in (entry.get('pair') or () if target is None else [target])
  ]
  if target is not None:
    return f' with target class {classes[0]}'
  return f' of {" and ".join(classes)}' if classes else ''


def describe_problem(entry: dict[str, Any], class_names: list) -> str:
  """Describes a problem in a few words, with its size and classes.

  Args:
    entry: one of `problems` in results.json.
    class_names: in label order.
  """
  size = f'{entry["manipulation_size"]} samples'
  # Results of earlier versions lack some facts.
  share = entry.get('manipulated_share')
  if share is not None:
    size += f' ({format_percent(share)} of the training set)'
  classes = _describe_classes(entry, class_names)
  return f'{entry["manipulation"]}{classes}, {size}'


def describe_validation(entry: dict[str, Any]) -> str:
  """Describes the data that hyperparameters were chosen on, as a sentence."""
  kind = str(entry.get('validation'))
  text = _VALIDATIONS.get(kind, f'Validation data: {kind}.')
  number = entry.get('evaluated')
  return text if number is None else f'{text} Test images evaluated: {number}.'
