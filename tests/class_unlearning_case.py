"""A made-up results.json of a run that forgot classes, and a tiny config."""

import pathlib

import numpy as np

from cmu_jax.core import config as configs

ROOT = pathlib.Path(__file__).parents[1]
# Method -> how far it is from retraining, in points of TV.
FAR = {
  'none': 90.0,
  'retrain': 4.0,
  'ft': 60.0,
  'mask': 30.0,
  'rwft': 12.0,
  'trw': 4.0,
  'trw_sample': 9.0,
}


def config(arg='', **changes):
  """Settings of a tiny run; '__' stands for the dot."""
  spec = f'{ROOT}/configs/trw_digits.py:smoke,width=8{arg}'
  fields = {name.replace('__', '.'): v for name, v in changes.items()}
  return configs.load(spec, fields).config


def row(method, number, seed, tv, **more):
  """One row of results.json; `tv` in points."""
  return {
    'method': method,
    'information': 'weights + D_R + D_F',
    'seed': seed,
    'forget_class': number,
    'hyper': {},
    'diverged': False,
    'gradient_evaluations': 10,
    'seconds': 1.5,
    'retain_accuracy': 0.9,
    'forget_accuracy': 0.8 if method == 'none' else 0.0,
    'train_retain_accuracy': 1.0,
    'train_forget_accuracy': 0.0,
    'mis': 0.5,
    'nearest_class': 9,
    'mia_nn_accuracy': 0.9,
    'mia_nn_gap': tv / 200,
    'mia_nn_floor': 0.02,
    'tv': tv / 100,
    'tv_floor': 0.04,
    'forget_probability': 0.0,
    'answer': np.full(10, 0.1).tolist(),
    'loss_auc': 0.5,
    'entropy_auc': 0.5,
    **more,
  }


def results(classes=(1, 3, 8), seeds=(0, 1, 2), far=None, **changes):
  """A finished run whose methods are as far off as FAR says."""
  far = {**FAR, **(far or {})}
  draws = np.random.default_rng(0)
  small = lambda: float(draws.normal(0, 0.3))
  rows = [
    row(m, c, s, far[m] + small()) for m in far for c in classes for s in seeds
  ]
  noise = [
    row('trw', c, s, far['trw'] + b * level + small(),
        hyper={'beta': b, 'noise': level})
    for b in (1.0, 10.0) for level in (0.0, 0.1, 1.0)
    for c in classes for s in seeds
  ]  # fmt: skip
  tuning = [
    row('trw', 0, 0, 10 + b, hyper={'beta': b, 'learning_rate': lr})
    for b in (1.0, 10.0) for lr in (0.1, 0.01)
  ]  # fmt: skip
  ulira = [
    {
      'forget_class': c,
      'method': m,
      'statistic': s,
      'ulira_auc': 0.7,
      'ulira_accuracy': 0.6,
      'unlearned': 3,
      'retrained': 6,
    }
    for m in far for c in classes for s in ('own', 'nearest')
  ]  # fmt: skip
  made = config()
  plain = configs.to_json(made) | {
    'forget_classes': list(classes),
    'seeds': list(seeds),
  }
  return {
    'schema': 1,
    'name': 'trw_digits',
    'task': 'class_unlearning',
    'smoke': False,
    'finished': True,
    'provenance': {'commit': 'abc'},
    'config': plain,
    'class_names': [str(i) for i in range(10)],
    'train_size': 900,
    'test_size': 300,
    'unseen_images': {str(c): 30 for c in classes},
    'methods': {m: {'says': 'x', 'hyper': {}} for m in far},
    'rows': rows,
    'noise': noise,
    'tuning': tuning,
    'ulira': ulira,
    **changes,
  }
