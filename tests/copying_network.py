"""A network that answers by the brightest pixel, and pictures to match.

The picture of class i has pixel i lit, so the network is perfect by design, in
whichever order its outputs are.
"""

import json
import pathlib

import numpy as np
import PIL.Image

from cmu_jax.networks import weights

MODEL = 'fc:width=64'


def ship(folder, outputs, side=None):
  """Weights and side file of a network.

  Args:
    folder: of w.npz and w.npz.json.
    outputs: the class (number of the lit pixel) of each output.
    side: further fields of the side file.
  """
  head = np.zeros((64, len(outputs)), np.float32)
  head[list(outputs), range(len(outputs))] = 20
  arrays = {
    'params/body/hidden_0/kernel': np.eye(64, dtype=np.float32),
    'params/body/hidden_0/bias': np.zeros(64, np.float32),
    'params/head/kernel': head,
    'params/head/bias': np.zeros(len(outputs), np.float32),
  }
  folder.mkdir(parents=True, exist_ok=True)
  weights.write(folder / 'w.npz', weights.StoredWeights(arrays, {}, '.npz'))
  facts = {'mean': [0.0], 'std': [1.0], **(side or {})}
  (folder / 'w.npz.json').write_text(json.dumps(facts))


def picture(number, seed):
  """uint8 [8, 8] of class `number`; no two of different seeds are equal."""
  pixels = np.random.default_rng(seed).integers(0, 60, (8, 8), np.uint8)
  pixels.flat[number] = 255
  return pixels


def pictures(root, names, count, seed=0):
  """root/<name>/<i>.png, `count` of each class.

  Args:
    root: the folder.
    names: class folder -> number of its class.
    count: of each class.
    seed: of the dark pixels; equal seeds give equal pictures.
  """
  for name, number in names.items():
    place = pathlib.Path(root) / name
    place.mkdir(parents=True, exist_ok=True)
    for i in range(count):
      pixels = picture(number, 10_000 * seed + 100 * number + i)
      PIL.Image.fromarray(pixels).save(place / f'{i}.png')
  return root


def flags(folder, **values):
  """The flags of a command with these weights; None leaves a flag out."""
  named = {
    **{'weights': folder / 'w.npz', 'model': MODEL, 'out': folder / 'out'},
    **values,
  }
  return [f'--{name}={v}' for name, v in named.items() if v is not None]
