"""How methods, problems and metrics are ordered, named and drawn."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from cmu_jax.methods import study_names

# Table 1 of the paper, from doing nothing to retraining.
PAPER = tuple(study_names.COLOURS)
_OTHER_COLOURS = (
  '#009E73',
  '#6B5B95',
  '#56B4E9',
  '#9C6B30',
  '#8A8A00',
)
_MARKERS = 'os^Dv'
_DASHES: tuple[tuple[float, ...], ...] = (
  (),
  (6, 2),
  (2, 1.5),
  (8, 2, 2, 2),
)


class Look(NamedTuple):
  """How one method is drawn, the same in all figures of a report.

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
    says: one sentence on what it is.
    kind: 'rate' (0 to 1), 'points', 'share' or 'cost'.
  """

  name: str
  says: str
  kind: str


METRICS = {
  'acc_corr': Metric(
    'Acc_corr',
    'Accuracy on unseen images of the affected kind, against true labels.',
    'rate',
  ),
  'acc_retain': Metric(
    'Acc_retain',
    'Accuracy on unseen images that the manipulation does not concern.',
    'rate',
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
    'rate',
  ),
  'accuracy_not_target': Metric(
    'Acc_corr, other classes',
    'Acc_corr without the images of the target class.',
    'rate',
  ),
  'clean_label_accuracy_sm': Metric(
    'clean-label accuracy on S_m',
    'Accuracy on the manipulated training images, against true labels.',
    'rate',
  ),
  'label_recovery': Metric(
    'label recovery on S_m',
    'Share of manipulated training images whose wrong label scores above '
    'another wrong one, beside networks that saw neither: 0.5 is chance, and '
    'rewod at 1, which never saw these labels, should be there.',
    'rate',
  ),
  'forget_changed': Metric(
    'changed on S_f',
    'Share of the identified samples that are given another class than before.',
    'rate',
  ),
  'forget_unlearned': Metric(
    'not as labelled on S_f',
    'Share of the identified samples that are given another class than the '
    'one they were trained with.',
    'rate',
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


def looks(methods: Iterable[str]) -> dict[str, Look]:
  """The look of each method; those of the paper always have their own."""
  order = study_names.sort_names(study_names.CORRECTIVE, methods)
  others = [m for m in order if m not in PAPER]
  found = {
    m: Look(study_names.COLOURS[m], (), 'o') for m in order if m in PAPER
  }
  for i, method in enumerate(others):
    turn = i // len(_OTHER_COLOURS)
    found[method] = Look(
      _OTHER_COLOURS[i % len(_OTHER_COLOURS)],
      _DASHES[turn % len(_DASHES)],
      _MARKERS[turn % len(_MARKERS)],
    )
  return found


def percent(share: float) -> str:
  """'10 %'; as many digits as it takes, at most three."""
  return f'{100 * share:.3g} %'


def short(problem: tuple[str, int]) -> str:
  """'poison 600'."""
  return f'{problem[0]} {problem[1]}'


def _classes(entry: dict[str, Any], names: list) -> str:
  """Which classes a problem is about, as far as it was recorded."""
  target, pair = entry.get('target'), entry.get('pair')
  chosen = [target] if isinstance(target, int) else list(pair or ())
  told = [
    f"'{names[c]}'" if 0 <= c < len(names) else f'class {c}' for c in chosen
  ]
  if isinstance(target, int):
    return f' with target class {told[0]}'
  return f' of {" and ".join(told)}' if told else ''


def title(entry: dict[str, Any], class_names: list) -> str:
  """A problem in a few words, with its size and classes.

  Args:
    entry: one of `problems` in results.json.
    class_names: in label order.
  """
  size = f'{entry["manipulation_size"]} samples'
  share = entry.get('manipulated_share')
  if share is not None:
    size += f' ({percent(share)} of the training set)'
  where = _classes(entry, [str(name) for name in class_names])
  return f'{entry["manipulation"]}{where}, {size}'


def validation(entry: dict[str, Any]) -> str:
  """What hyperparameters were chosen on, as a sentence."""
  kind = entry.get('validation')
  told = _VALIDATIONS.get(str(kind), f'Validation data: {kind}.')
  number = entry.get('evaluated')
  return told if number is None else f'{told} Test images evaluated: {number}.'
