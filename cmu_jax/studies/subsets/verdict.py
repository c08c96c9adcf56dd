"""What a run showed, in words."""

from typing import NamedTuple

import numpy as np

from cmu_jax.report import stats
from cmu_jax.report.frame import UNFINISHED, Results, Verdict
from cmu_jax.studies.engine import gaps
from cmu_jax.studies.subsets import load, tables

# As `audit.verdict` has it, which pages do not import: JAX comes with it.
_MOST_TIED = 0.9


class Best(NamedTuple):
  """The method of a group that is nearest to retraining.

  Attributes:
    method: its name.
    gap: mean of its gaps over runs.
    idle: that of doing nothing.
    gain: by how much it is nearer, paired over runs; None below two runs.
  """

  method: str
  gap: float
  idle: float
  gain: stats.Interval | None


def _by_run(found: Results, method: str) -> dict[tuple, float]:
  """(network, forget set) -> mean gap of its runs."""
  attack, best = found['config']['attack'], load.rows(found, 'retrain')
  held: dict[tuple, list[float]] = {}
  for row in load.rows(found, method):
    one = gaps.gap([row], best, attack)
    if one is not None:
      held.setdefault((row['seed'], row['forget_seed']), []).append(one.of_runs)
  return {key: float(np.mean(values)) for key, values in held.items()}


def best(found: Results, group: str) -> Best | None:
  """The nearest method of a group; None while there is nothing to compare."""
  sizes = {
    method: one.of_runs
    for method in load.groups(found)[group]
    if method not in ('none', 'retrain')
    and (one := tables.gap(found, method)) is not None
  }
  idle = tables.gap(found, 'none')
  if not sizes or idle is None:
    return None
  method = min(sizes, key=lambda name: sizes[name])
  own, nothing = _by_run(found, method), _by_run(found, 'none')
  shared = sorted(own.keys() & nothing.keys())
  gains = np.array([nothing[key] - own[key] for key in shared])
  return Best(method, sizes[method], idle.of_runs, stats.interval(gains))


def _told(group: str, one: Best) -> str:
  start = (
    f'{group[0].upper()}{group[1:]}, {one.method} is nearest to retraining: '
    f'{one.gap:.2f} points away, doing nothing {one.idle:.2f}.'
  )
  if one.gain is None:
    return f'{start} One run says nothing about the next one.'
  between = (
    f'{one.gain.mean:+.2f} points, 95 % interval {one.gain.low:+.2f} to '
    f'{one.gain.high:+.2f}'.replace('-', '−')
  )
  if one.gain.low > 0:
    return f'{start} It is nearer than doing nothing ({between}).'
  return f'{start} That is no nearer than doing nothing ({between}).'


def _chance(found: Results) -> str:
  """What the attack makes of Retrain, which has seen none of D_F."""
  values = [row['ft_auc'] for row in load.rows(found, 'retrain')]
  values = [100 * value for value in values if value is not None]
  if not values:
    return ''
  return (
    f'Retrain, which never saw the forgotten images, has an FT AUC of '
    f'{np.mean(values):.2f}: with {found["forget_size"]} forgotten and '
    f'{found["test_size"]} test images that is what no membership looks like '
    'here, not 50.'
  )


def _blind(found: Results) -> str:
  """Whether RMIA has anything to say of the network as it was trained."""
  rows = load.rows(found, 'none')
  tied = [x for row in rows if (x := row.get('rmia_tied')) is not None]
  if not tied or np.mean(tied) < _MOST_TIED:
    return ''
  ratio = 100 * np.mean([row['ft_auc_rmia_ratio'] for row in rows])
  return (
    f'RMIA is blind here: {100 * np.mean(tied):.0f} % of its scores of the '
    'network as trained are tied, so that an AUC near 50 is no evidence; the '
    f'AUC of its ratio is {ratio:.1f}. Choose by config.attack=rmia_ratio.'
  )


def verdict(found: Results) -> Verdict:
  """What a run showed.

  Args:
    found: checked contents of results.json.
  """
  judged = {group: best(found, group) for group in load.groups(found)}
  known = {group: one for group, one in judged.items() if one is not None}
  if not known:
    return Verdict('No verdict yet', 'flat', ('Nothing can be compared yet.',))
  sure = [one for one in known.values() if one.gain and one.gain.low > 0]
  named = ' and '.join(f'{one.method} ({g})' for g, one in known.items())
  label = (
    f'Nearest to retraining: {named}'
    if sure
    else 'No method is nearer to retraining than doing nothing'
  )
  sentences = [_told(group, one) for group, one in known.items()]
  sentences += [_chance(found), _blind(found)]
  sentences.append(
    'The nearest of several methods is flattered by the choice; networks share '
    'the test images, so that runs are not independent.'
  )
  if not found['finished']:
    sentences.append(UNFINISHED)
  evidence = found['finished'] and not found['smoke']
  tone = 'good' if sure and evidence else 'flat'
  return Verdict(label, tone, tuple(s for s in sentences if s))
