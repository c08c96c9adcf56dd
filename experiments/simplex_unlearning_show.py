"""The table and the figure of `simplex_unlearning.py`, from its JSON file."""

import pathlib

import numpy as np
from scipy import stats

PRIMARY = '3'
NAMES = (
  'centroid',
  'negmerge',
  'ties',
  'magmax',
  'vertices',
  'sampled',
  'cubature2',
  'cubature3',
  'taylor2',
)


def interval(values) -> dict:
  """Mean and 95 % interval of Student's t; no interval of a single value."""
  values = np.asarray(values, np.float64)
  mean = float(values.mean())
  if values.size < 2:
    return {'mean': mean, 'low': None, 'high': None, 'count': values.size}
  error = float(values.std(ddof=1) / np.sqrt(values.size))
  reach = float(stats.t.ppf(0.975, values.size - 1)) * error
  return {
    'mean': mean,
    'low': mean - reach,
    'high': mean + reach,
    'count': values.size,
  }


def _column(cells, q, method, number, space='probabilities'):
  return np.array(
    [one['by_q'][q]['methods'][method][space][number] for one in cells.values()]
  )


def _singles(cells, q) -> dict:
  """The mean of q single vectors, and the one that validation prefers."""
  mean, best = [], []
  for one in cells.values():
    rows = one['single'][: int(q)]
    mean.append([np.mean([r[k] for r in rows]) for k in ('forget', 'control')])
    first = min(range(len(rows)), key=lambda i: rows[i]['validation_forget'])
    best.append([rows[first][k] for k in ('forget', 'control')])
  return {
    name: {
      key: interval(np.array(values)[:, i])
      for i, key in enumerate(('forget', 'control'))
    }
    for name, values in (('single', mean), ('single_best', best))
  }


def _row(cells, q, method, space) -> dict:
  """Accuracies of a method, and its differences from the centroid."""
  row = {'q': int(q), 'method': method, 'space': space}
  for number in ('forget', 'control', 'lambda'):
    row[number] = interval(_column(cells, q, method, number, space))
  for number in ('forget', 'control'):
    own = _column(cells, q, method, number, space)
    row[f'{number}_minus_centroid'] = interval(
      own - _column(cells, q, 'centroid', number)
    )
  if all(method in one['by_q'][q]['errors'] for one in cells.values()):
    row['error'] = float(
      np.mean(
        [one['by_q'][q]['errors'][method][space] for one in cells.values()]
      )
    )
  return row


def summary(cells: dict) -> dict:
  """Rows by Q, method and space; the primary comparison; costs; spread."""
  first = next(iter(cells.values()))
  sizes = list(first['by_q'])
  rows = []
  for q in sizes:
    for name, numbers in _singles(cells, q).items():
      row = {'q': int(q), 'method': name, 'space': 'probabilities'}
      rows.append({**row, **numbers})
    for method in NAMES:
      if method not in first['by_q'][q]['methods']:
        continue
      rows.append(_row(cells, q, method, 'probabilities'))
      if method in ('cubature2', 'taylor2'):
        rows.append(_row(cells, q, method, 'logits'))
  gains = {
    number: interval(
      _column(cells, PRIMARY, 'cubature2', number)
      - _column(cells, PRIMARY, 'centroid', number)
    )
    for number in ('forget', 'control')
  }
  low, high = gains['forget']['low'], gains['forget']['high']
  kept = gains['control']['high']
  better = low is not None and high < 0 and kept >= 0
  timed = next((o for o in cells.values() if o['by_q'][sizes[0]]['seconds']), 0)
  costs = {
    q: {
      name: seconds / timed['by_q'][q]['seconds']['forward']
      for name, seconds in timed['by_q'][q]['seconds'].items()
    }
    for q in (sizes if timed else ())
  }
  mean = lambda q, key: float(
    np.mean([one['by_q'][q][key] for one in cells.values()])
  )
  facts = ('variance', 'deviation_of_logits', 'kept_by_negmerge')
  return {
    'seeds': len(cells),
    'untouched': {
      k: interval([one['untouched'][k] for one in cells.values()])
      for k in ('forget', 'control')
    },
    'primary': {**gains, 'q': int(PRIMARY), 'unlearns_better': better},
    'forward_passes': costs,
    'spread': {q: {key: mean(q, key) for key in facts} for q in sizes},
    'rows': rows,
  }


def _points(value) -> str:
  if value['low'] is None:
    return f'{100 * value["mean"]:.1f}'
  reach = 100 * (value['high'] - value['mean'])
  return f'{100 * value["mean"]:.1f} ± {reach:.1f}'


def markdown(found: dict) -> str:
  """The verdict in words, then the table."""
  told = found['summary']
  primary = told['primary']
  verdict = (
    'the mean over the simplex unlearns better than its centroid'
    if primary['unlearns_better']
    else 'no evidence that the mean over the simplex unlearns better than its '
    'centroid'
  )
  before = told['untouched']
  lines = [
    f'{found["dataset"]}, {told["seeds"]} seeds: {verdict}. cubature2 on '
    f'probabilities minus the centroid, Q = {primary["q"]}: forget accuracy '
    f'{_points(primary["forget"])} points, control accuracy '
    f'{_points(primary["control"])} points (95 % intervals).',
    '',
    f'Untouched: forget {_points(before["forget"])}, control '
    f'{_points(before["control"])}.',
    '',
    '| Q | method | mean of | forget % | control % | forget minus centroid | '
    'lambda | error of the mean | cost, forward passes |',
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for row in told['rows']:
    cost = told['forward_passes'].get(str(row['q']), {}).get(row['method'])
    gain = row.get('forget_minus_centroid')
    strength = row.get('lambda')
    lines.append(
      f'| {row["q"]} | {row["method"]} | {row["space"]} | '
      f'{_points(row["forget"])} | {_points(row["control"])} | '
      f'{_points(gain) if gain else ""} | '
      f'{format(strength["mean"], ".2f") if strength else ""} | '
      f'{format(row["error"], ".1e") if "error" in row else ""} | '
      f'{format(cost, ".1f") if cost else ""} |'
    )
  return '\n'.join(lines)


def figure(found: dict, path: pathlib.Path) -> None:
  """Forget accuracy by Q, and the error of every estimate of the mean."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  rows = [r for r in found['summary']['rows'] if r['space'] == 'probabilities']
  drawn, axes = pyplot.subplots(1, 2, figsize=(12, 4))
  for i, name in enumerate(('single', *NAMES)):
    own = [r for r in rows if r['method'] == name]
    sizes = [r['q'] for r in own]
    style = {'marker': 'o', 'label': name, 'linewidth': 1, 'color': f'C{i}'}
    axes[0].plot(sizes, [100 * r['forget']['mean'] for r in own], **style)
    if own and 'error' in own[0]:
      axes[1].semilogy(sizes, [r['error'] for r in own], **style)
  axes[0].set(xlabel='vertices Q', ylabel='forget accuracy, % (lower: better)')
  axes[1].set(xlabel='vertices Q', ylabel='error of the mean probabilities')
  # Beside the axes: lines cross everywhere within them.
  axes[0].legend(fontsize=7, loc='upper left', bbox_to_anchor=(1, 1))
  axes[1].legend(fontsize=7, loc='upper left', bbox_to_anchor=(1, 1))
  drawn.tight_layout()
  drawn.savefig(path, dpi=120)
  pyplot.close(drawn)
