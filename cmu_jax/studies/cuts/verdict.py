"""The outcome of a run as a label and a few plain sentences."""

from typing import NamedTuple

import numpy as np

from cmu_jax.core import errors
from cmu_jax.methods import study_names
from cmu_jax.report import page, stats
from cmu_jax.report.frame import Results
from cmu_jax.studies.cuts import seed_stats

# The rules in the report state these margins as text, so a change here needs a
# change there.
POISON_UTILITY_LOSS = 0.02
POISON_ASR_GONE = 0.05
NOISE_UTILITY_LOSS = 0.01
NOISE_RECOVERED = 0.9

_ORACLE = 'the oracle, which was trained without the corrupted samples'


_UNLABELLED = 'information_maximization_safe'


class Verdict(NamedTuple):
  """Outcome of a run."""

  # 'repaired', 'partly repaired', 'no clear change', 'made worse' or 'left as
  # it was'.
  label: str
  # Why, the most important first, ending with `sure`.
  sentences: tuple[str, ...]
  # Every class that fell by more than five points, worst first.
  harmed: tuple[page.Harm, ...]
  sure: tuple[str, ...]


def _count_edits(results: Results) -> tuple[int, int]:
  """Seeds in which unlabelled images confirm a repair, and all seeds."""
  chosen = [
    row['selected'] for row in results['rows'] if row['method'] == _UNLABELLED
  ]
  return sum(map(bool, chosen)), len(chosen)


def choose_lead(results: Results) -> str:
  """The repair that a user without labels should look at first.

  Information maximisation if its runs confirm each other in most seeds, because
  it needs less than CUTS and gained more in our experiments; otherwise CUTS.
  """
  edits, seeds = _count_edits(results)
  return _UNLABELLED if 2 * edits > seeds else 'cuts'


def _lead_sentences(results: Results, lead: str) -> list[str]:
  """The reason why information maximisation leads."""
  if lead == 'cuts':
    return []
  edits, seeds = _count_edits(results)
  return [
    f'{_name(lead)} leads, because two runs on halves of the unlabelled '
    f'images change predictions alike in {edits} of '
    f'{seed_stats.format_count(seeds, "seed")}.'
  ]


def _name(method: str) -> str:
  """A method at the beginning of a sentence."""
  label = study_names.present(method).label
  return f'{label[0].upper()}{label[1:]}'


def find_harmed_classes(
  results: Results, method: str = 'cuts'
) -> tuple[page.Harm, ...]:
  """Finds classes that a repair lowered by over five points, worst first."""
  names = [str(name) for name in results['class_names']]
  old, new = seed_stats.class_changes(results, method)
  # NaN, the accuracy of a class without test images, is no fall.
  return page.find_harms(names, old.tolist(), new.tolist())


def _harm_list(classes: tuple[page.Harm, ...]) -> str:
  remaining = len(classes) - 3
  text = '; '.join(page.describe_harm(harm) for harm in classes[:3])
  return f'{text}; and {remaining} more' if remaining > 0 else text


def _harm_sentences(
  results: Results, harms: tuple[page.Harm, ...], method: str
) -> list[str]:
  old, new = seed_stats.class_changes(results, method)
  if harms:
    text = _harm_list(harms)
    return [f'{text[0].upper()}{text[1:]}.']
  if not np.isfinite(old - new).any():
    return ['Accuracy by class was not recorded, so harm to one is unknown.']
  return ['No class fell by more than 5 points.']


def _change(pairs: np.ndarray, quantity: str) -> str:
  old, new = pairs.mean(axis=0).tolist()
  points = 100 * (new - old)
  # A smaller change would be printed as 0.0 points.
  if abs(points) < 0.05:
    return f'{quantity} stayed at {new:.3f}.'
  verb = 'rose' if points > 0 else 'fell'
  return (
    f'{quantity} {verb} from {old:.3f} to {new:.3f} ({points:+.1f} points).'
  )


def _recovery(results: Results, method: str) -> tuple[float | None, str]:
  """Mean of (UT - UT_mix) / (UT_oracle - UT_mix) over seeds, and its sentence.

  The recovery rate of CUTS (arXiv 2511.18660); undefined where the oracle is
  not better than the corrupted model.
  """
  triple = seed_stats.pair_by_seed(
    results, 'test_accuracy', ('corrupted', method, 'oracle')
  )
  if not len(triple):
    return None, 'There is no oracle to compare with.'
  mix, repaired, oracle = triple.T
  # Without a gap the ratio means nothing, and a single such seed would spoil
  # the mean.
  if (oracle <= mix).any():
    return None, (
      'The corrupted model is as good as the oracle in at least one seed, so '
      'there is no gap to recover.'
    )
  value = float(((repaired - mix) / (oracle - mix)).mean())
  if value < 0:
    return value, f'The model moved away from {_ORACLE} ({oracle.mean():.3f}).'
  return value, (
    f'{_name(method)} recovers {100 * value:.0f} % of the gap to {_ORACLE} '
    f'({oracle.mean():.3f}).'
  )


def _noise_label(difference: np.ndarray, recovery: float | None) -> str:
  change = float(difference.mean())
  interval = stats.interval(difference)
  # A lone seed has no interval; it has to move by the margin that counts as a
  # loss, and can never earn the full label.
  low = interval.low if interval else change - NOISE_UTILITY_LOSS
  high = interval.high if interval else change + NOISE_UTILITY_LOSS
  if high < 0 or change < -NOISE_UTILITY_LOSS - page.HARM_SLACK:
    return 'made worse'
  if low <= 0:
    return 'no clear change'
  enough = (
    recovery is not None and recovery >= NOISE_RECOVERED - page.HARM_SLACK
  )
  return 'repaired' if enough and interval else 'partly repaired'


def _label_noise(
  results: Results,
  pairs: np.ndarray,
  harms: tuple[page.Harm, ...],
  method: str,
) -> tuple[str, list[str]]:
  recovery, sentence = _recovery(results, method)
  label = _noise_label(pairs[:, 1] - pairs[:, 0], recovery)
  change = _change(pairs, 'Test accuracy')
  harm = _harm_sentences(results, harms, method)
  # Harm to classes comes early, because an average hides it.
  evidence = [*harm, sentence] if harms else [sentence, *harm]
  return label, [change, *evidence]


def _poison_label(attack: np.ndarray, loss: float, hurt: bool) -> str:
  old, new = attack.mean(axis=0)
  # Harm outweighs a trigger that no longer works.
  if hurt or loss > POISON_UTILITY_LOSS + page.HARM_SLACK:
    return 'made worse'
  if new > old + page.CLASS_HARM + page.HARM_SLACK:
    return 'made worse'
  # Without a working trigger there was nothing to repair.
  if old <= POISON_ASR_GONE:
    return 'no clear change'
  if new <= POISON_ASR_GONE + page.HARM_SLACK:
    return 'repaired'
  return 'partly repaired' if new <= old / 2 else 'no clear change'


def _poison(
  results: Results,
  pairs: np.ndarray,
  harms: tuple[page.Harm, ...],
  method: str,
) -> tuple[str, list[str]]:
  attack = seed_stats.pair_by_seed(
    results, 'attack_success_rate', ('corrupted', method)
  )
  loss = float((pairs[:, 0] - pairs[:, 1]).mean())
  utility = _change(pairs, 'Test accuracy')
  harm = _harm_sentences(results, harms, method)
  if not len(attack):
    # Harm counts even where nobody measured the attack.
    bad = bool(harms) or loss > POISON_UTILITY_LOSS + page.HARM_SLACK
    label = 'made worse' if bad else 'no clear change'
    return label, ['The attack success rate was not measured.', *harm, utility]
  old, new = attack.mean(axis=0).tolist()
  rate = _change(attack, 'Attack success rate on triggered test images')
  label = _poison_label(attack, loss, bool(harms))
  if old <= POISON_ASR_GONE:
    rate += ' The trigger did not work on the corrupted model either.'
  elif new <= POISON_ASR_GONE + page.HARM_SLACK and harms:
    harm = [f'The trigger no longer works, but {_harm_list(harms)}.']
    return label, [*harm, rate, utility]
  return label, [rate, *harm, utility]


def _count_abstentions(results: Results, method: str) -> tuple[int, int]:
  """Counts the seeds in which a repair changed nothing, and all seeds."""
  rows = [row for row in results['rows'] if row['method'] == method]
  idle = [r for r in rows if r.get('selected') is False or r.get('alpha') == 0]
  return len(idle), len(rows)


def _explain_abstention(results: Results, method: str) -> list[str]:
  if results['task'] == 'poison':
    why = (
      'No alpha drove the attack success rate on the proxy images low enough, '
      'so CUTS abstained and left the weights as they were.'
    )
    attack = seed_stats.by_seed(results, 'corrupted', 'attack_success_rate')
    rate = stats.spread(list(attack.values()))
    still = 'The trigger still works: attack success rate'
    return [why, f'{still} {rate.mean:.3f}.'] if rate else [why]
  if method != 'cuts':
    return [
      f'{_name(method)} found no evidence for a change, so the weights are as '
      'they were.'
    ]
  return [
    'CUTS chose alpha = 0: no step along its task vector looked better to its '
    'own score, so the weights are as they were.'
  ]


def _sure(results: Results, pairs: np.ndarray, idle: bool) -> tuple[str, ...]:
  sentences = []
  if results['smoke']:
    sentences.append('Smoke run, far too short to mean anything: not evidence.')
  interval = stats.interval(pairs[:, 1] - pairs[:, 0])
  if interval is None:
    sentences.append(
      'One seed: how much the numbers vary is unknown, and no change is beyond '
      'doubt.'
    )
  elif not idle:
    sentences.append(
      f'Over {len(pairs)} seeds the change in test accuracy is '
      f'{100 * interval.mean:+.1f} points, 95 % interval '
      f'{100 * interval.low:+.1f} to {100 * interval.high:+.1f}.'
    )
  else:
    sentences.append(f'The same in all of {len(pairs)} seeds.')
  return tuple(sentences)


def decide(results: Results) -> Verdict:
  """Decides what a run showed from paired per-seed differences.

  Label noise: 'repaired' when the mean recovery rate is at least 0.9 and the
  95 % t-interval of the change in test accuracy lies above 0; 'partly
  repaired' when only the interval does; 'made worse' when it lies below 0 or
  the mean fell by more than a point. A single seed has no interval and is
  never 'repaired'.

  Poison: 'repaired' when the attack success rate on triggered test images is
  at most 0.05, test accuracy fell by at most 2 points and no class fell by
  more than 5; 'partly repaired' when the rate at least halved without that
  harm; 'made worse' with that harm, whatever became of the attack, or when
  the rate rose by more than 5 points.

  Raises:
    UserError: no seed has a test accuracy both before and after.
  """
  lead = choose_lead(results)
  pairs = seed_stats.pair_by_seed(results, 'test_accuracy', ('corrupted', lead))
  errors.check(
    len(pairs),
    f"results.json: no seed has test_accuracy for both 'corrupted' and "
    f"'{lead}', so there is no verdict; let the run finish",
  )
  harms = find_harmed_classes(results, lead)
  idle, runs = _count_abstentions(results, lead)
  # Unchanged weights need no comparison.
  if idle == runs:
    sure = _sure(results, pairs, idle=True)
    reasons = (*_explain_abstention(results, lead), *sure)
    return Verdict('left as it was', reasons, harms, sure)
  decide = _poison if results['task'] == 'poison' else _label_noise
  label, sentences = decide(results, pairs, harms, lead)
  sentences = [*_lead_sentences(results, lead), *sentences]
  if idle:
    seeds = seed_stats.format_count(runs, 'seed')
    sentences.append(f'{_name(lead)} changed nothing in {idle} of {seeds}.')
  sure = _sure(results, pairs, idle=False)
  return Verdict(label, (*sentences, *sure), harms, sure)
