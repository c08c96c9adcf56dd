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
  """Computes mean and 95 % interval of Student's t; none of a single value."""
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
    [
      cell['by_q'][q]['methods'][method][space][number]
      for cell in cells.values()
    ]
  )


def _singles(cells, q) -> dict:
  """The mean of q single vectors, and the one that validation prefers."""
  mean, best = [], []
  for cell in cells.values():
    rows = cell['single'][: int(q)]
    mean.append([np.mean([r[k] for r in rows]) for k in ('forget', 'control')])
    preferred = min(rows, key=lambda row: row['validation_forget'])
    best.append([preferred[k] for k in ('forget', 'control')])
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
    row[f'{number}_minus_centroid'] = interval(
      _column(cells, q, method, number, space)
      - _column(cells, q, 'centroid', number)
    )
  errors = [cell['by_q'][q]['errors'] for cell in cells.values()]
  if all(method in error for error in errors):
    row['error'] = float(np.mean([error[method][space] for error in errors]))
  return row


def _costs(cells) -> dict:
  """Seconds by Q and method, in forward passes, of the cell that was timed."""
  timed = [
    cell['by_q']
    for cell in cells.values()
    if next(iter(cell['by_q'].values()))['seconds']
  ]
  if not timed:
    return {}
  return {
    q: {
      name: seconds / record['seconds']['forward']
      for name, seconds in record['seconds'].items()
    }
    for q, record in timed[0].items()
  }


def summarize(cells: dict) -> dict:
  """Summarizes rows by Q, method and space; the primary comparison; costs."""
  by_q = next(iter(cells.values()))['by_q']
  rows = []
  for q in by_q:
    for name, numbers in _singles(cells, q).items():
      row = {'q': int(q), 'method': name, 'space': 'probabilities'}
      rows.append({**row, **numbers})
    for method in NAMES:
      if method not in by_q[q]['methods']:
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
  forget, control = gains['forget'], gains['control']
  better = (
    forget['low'] is not None and forget['high'] < 0 and control['high'] >= 0
  )
  mean = lambda q, key: float(
    np.mean([cell['by_q'][q][key] for cell in cells.values()])
  )
  facts = ('variance', 'deviation_of_logits', 'kept_by_negmerge')
  return {
    'seeds': len(cells),
    'untouched': {
      k: interval([cell['untouched'][k] for cell in cells.values()])
      for k in ('forget', 'control')
    },
    'primary': {**gains, 'q': int(PRIMARY), 'unlearns_better': better},
    'forward_passes': _costs(cells),
    'spread': {q: {key: mean(q, key) for key in facts} for q in by_q},
    'rows': rows,
  }


def _points(value) -> str:
  if value['low'] is None:
    return f'{100 * value["mean"]:.1f}'
  reach = 100 * (value['high'] - value['mean'])
  return f'{100 * value["mean"]:.1f} ± {reach:.1f}'


def markdown(results: dict) -> str:
  """Formats the verdict in words, then the table."""
  summary = results['summary']
  primary = summary['primary']
  verdict = (
    'the mean over the simplex unlearns better than its centroid'
    if primary['unlearns_better']
    else 'no evidence that the mean over the simplex unlearns better than its '
    'centroid'
  )
  untouched = summary['untouched']
  lines = [
    f'{results["dataset"]}, {summary["seeds"]} seeds: {verdict}. cubature2 on '
    f'probabilities minus the centroid, Q = {primary["q"]}: forget accuracy '
    f'{_points(primary["forget"])} points, control accuracy '
    f'{_points(primary["control"])} points (95 % intervals).',
    '',
    f'Untouched: forget {_points(untouched["forget"])}, control '
    f'{_points(untouched["control"])}.',
    '',
    '| Q | method | mean of | forget % | control % | forget minus centroid | '
    'lambda | error of the mean | cost, forward passes |',
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for row in summary['rows']:
    cost = summary['forward_passes'].get(str(row['q']), {}).get(row['method'])
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


def draw_figure(results: dict, path: pathlib.Path) -> None:
  """Draws forget accuracy by Q, and the errors of the estimated means."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  rows = [
    row for row in results['summary']['rows'] if row['space'] == 'probabilities'
  ]
  figure, axes = pyplot.subplots(1, 2, figsize=(12, 4))
  for i, name in enumerate(('single', *NAMES)):
    members = [r for r in rows if r['method'] == name]
    sizes = [r['q'] for r in members]
    style = {'marker': 'o', 'label': name, 'linewidth': 1, 'color': f'C{i}'}
    axes[0].plot(sizes, [100 * r['forget']['mean'] for r in members], **style)
    if members and 'error' in members[0]:
      axes[1].semilogy(sizes, [r['error'] for r in members], **style)
  axes[0].set(xlabel='vertices Q', ylabel='forget accuracy, % (lower: better)')
  axes[1].set(xlabel='vertices Q', ylabel='error of the mean probabilities')
  # Beside the axes: lines cross everywhere within them.
  axes[0].legend(fontsize=7, loc='upper left', bbox_to_anchor=(1, 1))
  axes[1].legend(fontsize=7, loc='upper left', bbox_to_anchor=(1, 1))
  figure.tight_layout()
  figure.savefig(path, dpi=120)
  pyplot.close(figure)
