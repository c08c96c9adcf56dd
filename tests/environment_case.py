"""Each command as a process of its own, in an environment that a test sets."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image

REPOSITORY = pathlib.Path(__file__).parents[1]
COMMANDS = ('repair', 'unlearn', 'audit', 'study')


def ship(folder, classes=4):
  """An untrained network, pictures for it, and scores of an attack."""
  draw = np.random.default_rng(3)
  arrays = {
    'params/body/hidden_0/kernel': draw.normal(size=(64, 16)) / 8,
    'params/body/hidden_0/bias': np.zeros(16),
    'params/head/kernel': draw.normal(size=(16, classes)),
    'params/head/bias': np.zeros(classes),
  }
  np.savez(
    folder / 'w.npz', **{name: a.astype('f4') for name, a in arrays.items()}
  )
  (folder / 'w.npz.json').write_text(json.dumps({'mean': [0.5], 'std': [0.5]}))
  for part in ('bad', 'kept'):
    for label in range(classes):
      place = folder / part / f'c{label}'
      place.mkdir(parents=True)
      for i in range(3):
        pixels = draw.integers(0, 256, (8, 8), np.uint8)
        PIL.Image.fromarray(pixels).save(place / f'{i}.png')
  np.savez(
    folder / 'scores.npz',
    member_scores=draw.normal(size=40),
    other_scores=draw.normal(size=40),
  )
  return folder


def words(folder, command, place, **changes):
  """The arguments of a quick call of a command; None leaves a flag out."""
  network = {'weights': folder / 'w.npz', 'model': 'fc:width=16'}
  flags = {
    'repair': {
      **network,
      'proxy': folder / 'bad' / 'c1',
      'kind': 'poison',
      'target': 'c0',
      'classes': 'c0,c1,c2,c3',
      'steps': 2,
    },
    'unlearn': {
      **network,
      'forget': folder / 'bad',
      'method': 'gradient_ascent',
      'epochs': 1,
    },
    'audit': {'scores': folder / 'scores.npz', 'replicates': 20},
    'study': {'config': f'{REPOSITORY / "configs/cuts_digits.py"}:smoke'},
  }[command]
  name = 'workdir' if command == 'study' else 'out'
  values = {**flags, name: place, **changes}
  return [command, *(f'--{k}={v}' for k, v in values.items() if v is not None)]


def environment(**changes):
  """The variables of a child process; None removes a variable."""
  values = {
    'PYTHONPATH': str(REPOSITORY),
    'CMU_JAX_CACHE': str(REPOSITORY / '.cache' / 'processes'),
    **changes,
  }
  kept = {k: v for k, v in os.environ.items() if k not in values}
  # Settings of the suite would hide a user's environment.
  for name in ('JAX_PLATFORMS', 'XLA_FLAGS'):
    kept.pop(name, None)
  return kept | {k: v for k, v in values.items() if v is not None}


def run(arguments, folder, **variables):
  """Runs `python -m cmu_jax` in a folder; returns the finished process."""
  return subprocess.run(
    [sys.executable, '-m', 'cmu_jax', *arguments],
    cwd=folder,
    env=environment(**variables),
    capture_output=True,
    text=True,
    errors='replace',
    check=False,
  )
