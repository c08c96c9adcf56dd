"""Made-up results of corrective sweeps, shaped as a sweep writes them."""

import json
import pathlib
from typing import Any

import numpy as np

FRACTIONS = (0.1, 0.5, 0.8, 1.0)
PAPER = ('badt', 'cf', 'ssd', 'scrub', 'rewod')
PROBLEMS = (('poison', 600), ('interclass', 400))
NASTY = ['</script><b>', 'a|b_c & 50%', '\u2028\\', '"&\'', '{x}$^~', 'é']

_GRID = {
  'ssd': [{'alpha': a, 'gamma': g} for a in (1.0, 10.0) for g in (0.1, 1, 10)],
  'scrub': [{'alpha': a} for a in (0.1, 1.0, 10.0)],
  'npo': [{'beta': b} for b in (0.1, 1.0)],
}
_SECONDS = {
  'none': 0.0,
  'rewod': 50.0,
  'cf': 10.5,
  'scrub': 16.9,
  'ssd': 1.8,
  'badt': 33.2,
}


def curve(manipulation: str, method: str, fraction: float) -> float:
  """Acc_corr of a made-up method, in the order that the paper found."""
  low, high = (0.12, 0.97) if manipulation == 'poison' else (0.55, 0.95)
  rise = {
    'rewod': fraction**12 if manipulation == 'poison' else fraction,
    'cf': 0.9 * fraction**12 if manipulation == 'poison' else 0.93 * fraction,
    'ssd': 0.96 if manipulation == 'poison' else 0.0,
    'scrub': 0.3 * fraction if manipulation == 'poison' else 0.6 * fraction,
    'badt': 0.05,
    'none': 0.0,
  }.get(method, fraction ** (len(method) / 6))
  return low + (high - low) * rise


def _measured(
  manipulation: str, method: str, fraction: float, shift: float
) -> dict[str, Any]:
  poison = manipulation == 'poison'
  corr = min(1.0, curve(manipulation, method, fraction) + shift)
  lost = {'ssd': 0.08, 'none': 0.0}.get(method, -0.005)
  return {
    'score': 0.5 + 0.4 * corr,
    'validation_accuracy': 0.95 - lost,
    'forget_changed': 0.0 if method == 'none' else corr,
    'acc_corr': corr,
    'acc_retain': 0.96 - lost + shift / 3,
    'attack_success_rate': 1 - corr if poison else None,
    'accuracy_not_target': 0.9 * corr if poison else None,
    'clean_label_accuracy_sm': 0.9 * corr,
    'collapsed': lost > 0.05,
    'diverged': False,
    'gradient_evaluations': int(1000 * _SECONDS.get(method, 5)),
    'seconds': _SECONDS.get(method, 5.0),
  }


def _cell(place: dict[str, Any], rng: np.random.Generator) -> tuple:
  """The points of a cell and the number of the best one."""
  method, fraction = place['method'], place['identified_fraction']
  grid = _GRID.get(method, [{}])
  points = []
  for i, hyper in enumerate(grid):
    shift = float(rng.normal(0, 0.004)) - 0.07 * i
    values = _measured(place['manipulation'], method, fraction or 0.0, shift)
    points.append({**place, 'hyper': hyper, 'hyper_points': len(grid)} | values)
  return points, 0


def _rows(points: list, best: int) -> list[dict[str, Any]]:
  totals = {
    f'grid_{key}': sum(point[key] for point in points)
    for key in ('gradient_evaluations', 'seconds')
  }
  return [
    {**points[best], **totals, 'selection': rule, 'information': 'S_f + S_r'}
    for rule in ('paper', 'oracle')
  ]


def _problem(manipulation: str, size: int) -> dict[str, Any]:
  poison = manipulation == 'poison'
  return {
    'manipulation': manipulation,
    'manipulation_size': size,
    'pair': None if poison else [1, 3],
    'target': 0 if poison else None,
    'train_size': 60000,
    'manipulated_share': size / 60000,
    'validation': 'test_half',
    'evaluated': 5000,
  }


def results(
  seeds: int = 3,
  methods: tuple[str, ...] = PAPER,
  problems: tuple[tuple[str, int], ...] = PROBLEMS,
  fractions: tuple[float, ...] = FRACTIONS,
  **more: Any,
) -> dict[str, Any]:
  """A whole sweep; `more` replaces fields of results.json."""
  rng = np.random.default_rng(0)
  rows, points = [], []
  for kind, size in problems:
    for seed in range(seeds):
      for method in ('none', *methods):
        for fraction in fractions if method != 'none' else (None,):
          place = {
            'manipulation': kind,
            'manipulation_size': size,
            'seed': seed,
            'identified_fraction': fraction,
            'method': method,
          }
          found, best = _cell(place, rng)
          points += found if method != 'none' else []
          rows += _rows(found, best)
  return {
    'schema': 1,
    'name': 'corrective_made_up',
    'task': 'corrective',
    'smoke': False,
    'finished': True,
    'provenance': {
      'commit': 'edbb61c0a1b2c3d4',
      'config_hash': '9f2c1ab04d',
      'command': 'python -m cmu_jax.main --config=configs/made_up.py --sweep',
      'versions': {'python': '3.11.7', 'jax': '0.10.2'},
      'device': 'cpu: Example CPU',
    },
    'config': {
      'dataset': 'digits',
      'seeds': list(range(seeds)),
      'identified_fractions': list(fractions),
      'methods': list(methods),
    },
    'class_names': [str(c) for c in range(10)],
    'problems': [_problem(*problem) for problem in problems],
    'rows': rows,
    'points': points,
    'importance': importance(problems, seeds, fractions),
  } | more


def importance(problems, seeds, fractions) -> list[dict[str, Any]]:
  """Histograms of log10(I_f / I_r), heavier to the right for poison."""
  rng = np.random.default_rng(1)
  edges = np.linspace(-4, 4, 41)
  found = []
  for kind, size in problems:
    for seed in range(seeds):
      for fraction in fractions:
        tail = 3000 if kind == 'poison' else 100
        ratio = np.concatenate(
          [rng.normal(0, 0.7, 20000), rng.normal(2.4, 0.4, tail)]
        )
        counts, _ = np.histogram(ratio - 0.3 * fraction, edges)
        found.append(
          {
            'manipulation': kind,
            'manipulation_size': size,
            'seed': seed,
            'identified_fraction': fraction,
            'method': 'ssd',
            'edges': edges.tolist(),
            'retain_counts': counts.tolist(),
          }
        )
  return found


def pick(run: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
  """The rows of a run in which every named column has the wanted value."""
  return [
    row
    for row in run['rows']
    if all(row[key] == value for key, value in wanted.items())
  ]


def drop(run: dict[str, Any], **wanted: Any) -> dict[str, Any]:
  """The run without the rows that `pick` finds."""
  gone = [id(row) for row in pick(run, **wanted)]
  return run | {'rows': [row for row in run['rows'] if id(row) not in gone]}


def diverge(run: dict[str, Any], **wanted: Any) -> dict[str, Any]:
  """Makes the rows that `pick` finds diverged, in place."""
  for row in pick(run, **wanted):
    row.update(
      dict.fromkeys(key for key in row if key.startswith('acc')),
      diverged=True,
      score=None,
      validation_accuracy=None,
    )
  return run


def mixed() -> dict[str, Any]:
  """Unfinished, with missing, diverged and collapsed cells."""
  run = results(finished=False, seeds=2)
  run = drop(run, manipulation='interclass', seed=1, method='rewod')
  return diverge(run, method='scrub', seed=1, manipulation='poison')


def save(workdir: pathlib.Path, run: dict[str, Any]) -> pathlib.Path:
  """Writes results.json and returns its folder."""
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / 'results.json').write_text(json.dumps(run), encoding='utf-8')
  return workdir
