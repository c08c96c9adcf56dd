"""The table of pretrained_vs_scratch.py, from the rows of its JSON."""

import numpy as np
from pretrained_arms import ARMS

from cmu_jax.report import stats


def summarize_method(cells: dict, noise: str, arm: str, method: str) -> dict:
  """Computes means over seeds, 95 % intervals, and the gain of pre-training.

  If a network has little to lose, the recovery of single seeds is unstable; the
  gain in points and the recovery of the means (`recovery_of_means`) are not.
  """
  seeds = sorted(s for a, m, s in cells if (a, m) == (arm, method))

  def accuracies(arm: str, method: str) -> np.ndarray:
    return np.array(
      [cells[arm, method, s]['test_accuracy'] for s in seeds], float
    )

  def interval(values: np.ndarray) -> dict | None:
    ends = stats.interval(values)
    return ends and ends._asdict()

  gain = lambda arm, method: (
    100 * (accuracies(arm, method) - accuracies(arm, 'corrupted'))
  )
  oracle_gain = gain(arm, 'oracle').mean()
  line = {
    'noise': noise,
    'arm': arm,
    'method': method,
    'seeds': len(seeds),
    'test_accuracy': float(accuracies(arm, method).mean()),
    'gain_points': interval(gain(arm, method)),
    'recovery_of_means': float(100 * gain(arm, method).mean() / oracle_gain)
    if oracle_gain > 0
    else None,
  }
  paired = all(('pretrained', method, s) in cells for s in seeds)
  if arm != 'pretrained' and paired:
    difference = gain('pretrained', method) - gain(arm, method)
    line['pretrained_minus_this_points'] = interval(difference)
  return line


def summarize(rows: list[dict]) -> list[dict]:
  """Summarizes each noise, network and method."""
  lines = []
  for noise in sorted({row['noise'] for row in rows}):
    cells = {
      (row['arm'], row['method'], row['seed']): row
      for row in rows
      if row['noise'] == noise
    }
    pairs = dict.fromkeys((a, m) for a, m, _ in cells)
    for arm, method in sorted(pairs, key=lambda p: ARMS.index(p[0])):
      lines.append(summarize_method(cells, noise, arm, method))
  return lines


def print_table(lines: list[dict]) -> None:
  """Prints the summary as a Markdown table."""
  print(
    '| noise | network | method | n | accuracy | gain, points [95 %] '
    '| recovery of means, % | pre-trained gains more by |'
  )
  print('|---' * 8 + '|')

  def interval(x: dict | None) -> str:
    return f'{x["mean"]:.1f} [{x["low"]:.1f}, {x["high"]:.1f}]' if x else ''

  for line in lines:
    recovery = line['recovery_of_means']
    print(
      f'| {line["noise"]} | {line["arm"]} | {line["method"]} | {line["seeds"]} '
      f'| {line["test_accuracy"]:.3f} | {interval(line["gain_points"])} '
      f'| {"" if recovery is None else f"{recovery:.0f}"} '
      f'| {interval(line.get("pretrained_minus_this_points"))} |'
    )
