"""The table of pretrained_vs_scratch.py, from the rows of its JSON."""

import numpy as np
from pretrained_arms import ARMS

from cmu_jax.report import stats


def line(cells: dict, noise: str, name: str, method: str) -> dict:
  """Mean accuracy and recovery over seeds, and what pre-training adds."""
  seeds = sorted(s for a, m, s in cells if (a, m) == (name, method))

  def of(key: str, who: str) -> np.ndarray:
    return np.array([cells[who, method, s][key] for s in seeds], float)

  found = {'noise': noise, 'arm': name, 'method': method, 'seeds': len(seeds)}
  found['test_accuracy'] = float(of('test_accuracy', name).mean())
  own = of('recovery_percent', name)
  spread = stats.interval(own)
  found['recovery_percent'] = spread and spread._asdict()
  if name != 'pretrained' and all(
    ('pretrained', method, s) in cells for s in seeds
  ):
    gap = stats.interval(of('recovery_percent', 'pretrained') - own)
    found['pretrained_minus_this'] = gap and gap._asdict()
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
    pairs = sorted(
      {(a, m) for a, m, _ in cells}, key=lambda p: ARMS.index(p[0])
    )
    found += [line(cells, noise, name, method) for name, method in pairs]
  return found


def show(lines: list[dict]) -> None:
  """Prints the summary as a Markdown table."""
  print(
    '| noise | network | method | n | accuracy | recovery, % [95 %] | less |'
  )
  print('|---' * 7 + '|')
  span = lambda x: f'{x["mean"]:.0f} [{x["low"]:.0f}, {x["high"]:.0f}]'
  for line in lines:
    recovery, less = line['recovery_percent'], line.get('pretrained_minus_this')
    print(
      f'| {line["noise"]} | {line["arm"]} | {line["method"]} | {line["seeds"]} '
      f'| {line["test_accuracy"]:.3f} | {span(recovery) if recovery else ""} '
      f'| {span(less) if less else ""} |'
    )
