"""Made-up results of runs, shaped as a run writes them."""

import json
import pathlib
from typing import Any

import numpy as np

ALPHA = np.round(np.arange(81) * 0.05, 2)
COARSE = np.round(np.arange(0, 4.01, 0.25), 2)


def provenance() -> dict[str, Any]:
  return {
    'commit': 'edbb61c0a1b2c3d4',
    'config_hash': '9f2c1ab04d',
    'command': 'python -m cmu_jax.main --config configs/cuts_digits.py',
    'versions': {'python': '3.11.7', 'jax': '0.10.2', 'flax': '0.12.8'},
    'device': 'cpu: Example CPU',
  }


def row(method: str, seed: int, accuracy: float, **more: Any) -> dict[str, Any]:
  empty = {
    'alpha': None,
    'selected': None,
    'target_class_accuracy': None,
    'attack_success_rate': None,
    'triggered_accuracy': None,
    'recovery_percent': None,
    'information': 'weights',
  }
  return {'method': method, 'seed': seed, 'test_accuracy': accuracy} | (
    empty | more
  )


def noise_curve(seed: int, rng: np.random.Generator) -> dict[str, Any]:
  wiggle = rng.normal(0, 0.004, 81).cumsum() / 3
  agreement = 0.35 + 0.5 * np.exp(-((ALPHA - 1.0) ** 2) / 0.8) + wiggle
  effective = np.clip((ALPHA - 2.0) * 0.3, 0, 0.6)
  coverage = np.clip((ALPHA - 2.2) * 0.3, 0, 0.7)
  score = agreement - effective - coverage
  score[ALPHA > 3.4] = -1e6
  tested = 0.62 + 0.32 * np.exp(-((COARSE - 1.05) ** 2) / 1.2)
  return {
    'seed': seed,
    'alpha': ALPHA.tolist(),
    'J': score.tolist(),
    'self_agreement': (agreement + 0.06).tolist(),
    'adjusted_agreement': agreement.tolist(),
    'penalty_effective': effective.tolist(),
    'penalty_coverage': coverage.tolist(),
    'alpha_hat': float(ALPHA[int(score.argmax())]),
    'selected': True,
    'evaluated': {
      'alpha': COARSE.tolist(),
      'test_accuracy': (tested + rng.normal(0, 0.005, len(COARSE))).tolist(),
      'target_class_accuracy': None,
      'attack_success_rate': None,
    },
  }


def poison_curve(
  seed: int, selected: bool, rng: np.random.Generator
) -> dict[str, Any]:
  shift = rng.normal(0, 0.1)
  rate = 1 / (1 + np.exp(6 * (ALPHA - 1.6 - shift)))
  rate = rate if selected else 0.4 + 0.6 * rate
  hit = np.flatnonzero(np.round(rate, 2) <= 0.01)
  coarse = np.interp(COARSE, ALPHA, rate)
  target = 1 / (1 + np.exp(6 * (COARSE - 1.3)))
  return {
    'seed': seed,
    'alpha': ALPHA.tolist(),
    'J': None,
    'proxy_attack_success_rate': rate.tolist(),
    'alpha_hat': float(ALPHA[hit[0]]) if selected else 0.0,
    'selected': selected,
    'evaluated': {
      'alpha': COARSE.tolist(),
      'test_accuracy': (0.87 + 0.1 * target).tolist(),
      'target_class_accuracy': target.tolist(),
      'attack_success_rate': (0.98 * coarse).tolist(),
    },
  }


def _noise_rows(seed: int, curve: dict, rng: np.random.Generator) -> list:
  before, top, *others = (
    np.array([0.796, 0.981, 0.962, 0.94, 0.796, 0.41, 0.905])
    + rng.normal(0, 0.006, 7)
  ).tolist()
  named = {
    'cuts': (others[0], curve['alpha_hat'], 'weights + proxy images'),
    'cuts_best_alpha': (
      others[0] + 0.004,
      1.05,
      'weights + proxy + test labels',
    ),
    'random_vector': (others[2], curve['alpha_hat'], 'weights'),
    'random_vector_uniform': (others[3], curve['alpha_hat'], 'weights'),
    'finetune_clean_proxy': (others[4], None, 'weights + clean proxy labels'),
    'spectral_clip': (others[1], None, 'weights'),
  }
  rows = [row('corrupted', seed, before, recovery_percent=0.0)]
  rows += [
    row(
      name,
      seed,
      accuracy,
      alpha=alpha,
      selected=True if name == 'cuts' else None,
      recovery_percent=100 * (accuracy - before) / (top - before),
      information=seen,
    )
    for name, (accuracy, alpha, seen) in named.items()
  ]
  last = row('oracle', seed, top, recovery_percent=100.0)
  return [*rows, last | {'information': 'clean training data'}]


def _poison_rows(seed: int, curve: dict, rng: np.random.Generator) -> list:
  del rng
  gone = curve['selected']
  after = (0.875, 0.0, 0.004) if gone else (0.97, 1.0, 0.98)
  table = {
    'corrupted': (0.97, 1.0, 0.98, None),
    'cuts': (*after, curve['alpha_hat']),
    'random_vector': (0.965, 0.99, 0.95, curve['alpha_hat']),
    'finetune_clean_proxy': (0.972, 0.99, 0.31, None),
    'oracle': (0.978, 1.0, 0.004, None),
  }
  return [
    row(
      name,
      seed,
      accuracy - 0.002 * seed,
      target_class_accuracy=target,
      attack_success_rate=rate,
      triggered_accuracy=1 - rate,
      alpha=alpha,
      selected=gone if name == 'cuts' else None,
      information='weights + triggered proxy images',
    )
    for name, (accuracy, target, rate, alpha) in table.items()
  ]


def results(
  task: str = 'label_noise',
  seeds: int = 3,
  classes: int = 10,
  selected: bool = True,
  smoke: bool = False,
) -> dict[str, Any]:
  """A run: noise that CUTS repairs, or poison where it deletes class 0."""
  rng = np.random.default_rng(0)
  noise = task == 'label_noise'
  curves = [
    noise_curve(s, rng) if noise else poison_curve(s, selected, rng)
    for s in range(seeds)
  ]
  rows = [
    line
    for curve in curves
    for line in (_noise_rows if noise else _poison_rows)(
      curve['seed'], curve, rng
    )
  ]
  per_class = []
  for line in rows:
    accuracy = np.clip(
      line['test_accuracy'] + np.linspace(-0.02, 0.02, classes), 0, 1
    )
    if not noise:
      accuracy = np.full(classes, 0.97)
      accuracy[0] = line['target_class_accuracy']
    per_class.append(
      {
        'method': line['method'],
        'seed': line['seed'],
        'accuracy': accuracy.tolist(),
      }
    )
  return {
    'schema': 1,
    'name': 'cuts_digits' if noise else 'cuts_digits_poison',
    'task': task,
    'smoke': smoke,
    'finished': True,
    'provenance': provenance(),
    'config': {
      'dataset': 'digits',
      'noise_rate': 0.4 if noise else 0.1,
      'proxy_fraction': 0.1,
      'seeds': list(range(seeds)),
      'model': {'name': 'mlp', 'width': 256},
      'corruption': {
        'kind': 'symmetric' if noise else 'patch_trigger',
        'target': 0,
      },
    },
    'class_names': [
      str(c) if classes < 20 else f'some class {c}' for c in range(classes)
    ],
    'rows': rows,
    'per_class': per_class,
    'curves': curves,
  }


def arrays(
  classes: int = 10, seeds: int = 3, deleted: int | None = None
) -> dict[str, np.ndarray]:
  """Confusion matrices and a feature path to go with `results`."""
  rng = np.random.default_rng(1)
  eye = np.eye(classes, dtype=int)
  before = rng.poisson(0.6, (seeds, classes, classes)) + 28 * eye[None]
  after = rng.poisson(0.12, (seeds, classes, classes)) + 34 * eye[None]
  if deleted is not None:
    before = after.copy()
    after[:, deleted] = 0
    after[:, deleted, (deleted + 6) % classes] = 35
  p, m = 17, 300
  alpha = np.linspace(0, 4, p)
  label = rng.integers(0, classes, m)
  angle = 2 * np.pi * np.arange(classes) / classes
  centre = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 4
  grow = (0.5 + 0.8 * np.sin(np.clip(alpha, 0, 2.5)))[:, None, None]
  turn = np.stack([-centre[:, 1], centre[:, 0]], axis=1)
  drift = 0.12 * (alpha**2)[:, None, None] * turn[label][None] * 0.5
  path = centre[label][None] * grow + drift + rng.normal(0, 0.7, (1, m, 2))
  return {
    'confusion_corrupted': before,
    'confusion_cuts': after,
    'feature_path': path,
    'feature_path_alpha': alpha,
    'feature_path_label': label,
  }


def save(
  workdir: pathlib.Path, run: dict, found: dict[str, np.ndarray] | None = None
) -> pathlib.Path:
  """Writes the two files of a run and returns their folder."""
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / 'results.json').write_text(json.dumps(run), encoding='utf-8')
  if found is not None:
    np.savez(workdir / 'arrays.npz', **found)
  return workdir
