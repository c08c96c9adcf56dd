"""The table of pretrained_vs_scratch.py, from the rows of its JSON."""

import numpy as np
from pretrained_arms import ARMS

from cmu_jax.report import stats


def line(cells: dict, noise: str, name: str, method: str) -> dict:
  """Means over seeds with 95 % intervals, and what pre-training adds.

  Where a network has little to lose, the recovery of single seeds is wild: the
  gain in points and the recovery of the means (`recovery_of_means`) are not.
  """
  seeds = sorted(s for a, m, s in cells if (a, m) == (name, method))

  def score(arm: str, who: str) -> np.ndarray:
    return np.array([cells[arm, who, s]['test_accuracy'] for s in seeds], float)

  def interval(values: np.ndarray) -> dict | None:
    spread = stats.interval(values)
    return spread and spread._asdict()

  gain = lambda arm, who: 100 * (score(arm, who) - score(arm, 'corrupted'))
  most = gain(name, 'oracle').mean()
  found = {
    'noise': noise,
    'arm': name,
    'method': method,
    'seeds': len(seeds),
    'test_accuracy': float(score(name, method).mean()),
    'gain_points': interval(gain(name, method)),
    'recovery_of_means': float(100 * gain(name, method).mean() / most)
    if most > 0
    else None,
  }
  beside = all(('pretrained', method, s) in cells for s in seeds)
  if name != 'pretrained' and beside:
    more = gain('pretrained', method) - gain(name, method)
    found['pretrained_minus_this_points'] = interval(more)
  return found


def summary(rows: list[dict]) -> list[dict]:
  """One line a noise, network and method."""
  found = []
  for noise in sorted({row['noise'] for row in rows}):
    cells = {
      (row['arm'], row['method'], row['seed']): row
      for row in rows
      if row['noise'] == noise
    }
    pairs = dict.fromkeys((a, m) for a, m, _ in cells)
    for name, method in sorted(pairs, key=lambda p: ARMS.index(p[0])):
      found.append(line(cells, noise, name, method))
  return found


def show(lines: list[dict]) -> None:
  """Prints the summary as a Markdown table."""
  print(
    '| noise | network | method | n | accuracy | gain, points [95 %] '
    '| recovery of means, % | pre-trained gains more by |'
  )
  print('|---' * 8 + '|')

  def span(x: dict | None) -> str:
    return f'{x["mean"]:.1f} [{x["low"]:.1f}, {x["high"]:.1f}]' if x else ''

  for line in lines:
    recovery = line['recovery_of_means']
    print(
      f'| {line["noise"]} | {line["arm"]} | {line["method"]} | {line["seeds"]} '
      f'| {line["test_accuracy"]:.3f} | {span(line["gain_points"])} '
      f'| {"" if recovery is None else f"{recovery:.0f}"} '
      f'| {span(line.get("pretrained_minus_this_points"))} |'
    )
