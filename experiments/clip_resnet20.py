"""Test accuracy of a shipped CIFAR-10 ResNet-20 after norm clipping.

Test accuracy before, after, and of kernels merely rescaled to the same norms;
with the running statistics as they were and recomputed from training images.
'convs' clips convolutions and the last layer, 'all' BatchNorm as well.

  python experiments/clip_resnet20.py --weights=FILE --data_dir=DIR \
    --out=clip_resnet20.json
"""

import json
from typing import Any

import cell_runs
import jax
import numpy as np
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.commands import shell
from cmu_jax.core import files, provenance, rng
from cmu_jax.core.types import Batch, Network, Variables
from cmu_jax.data import input_step, sources, splits
from cmu_jax.networks import weights
from cmu_jax.robustness import attacks, lipschitz, spectral

SHAPE = (32, 32, 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODEL = networks.make('resnet20', 10, SHAPE)
STEP = input_step.make(MEAN, STD)
NAMES = networks.REGISTRY['resnet20'].torch_name
TEMPLATE = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))


def load_shipped(path: str) -> Variables:
  """Loads the network from a file of weights with PyTorch's names."""
  return weights.fit(weights.read(path).arrays, TEMPLATE, NAMES, 'weights')[0]


def lipschitz_bound(variables: Variables) -> float | None:
  """Computes the Lipschitz bound, of pixels from 0 to 1."""
  logits = attacks.logits_of(Network(MODEL, STEP), variables)
  return lipschitz.bound(rng.fold_in(0), logits, SHAPE).value


def clip(
  start: Variables, images: Batch, test: Batch, part: str, bound: float
) -> dict[str, Any]:
  """Clips the network; returns accuracies, norms and the network's bound."""
  layers = spectral.find_layers(MODEL.apply, start, SHAPE)
  if part == 'convs':
    layers = tuple(layer for layer in layers if layer.kind != 'norm')
  clipped, info = spectral.clip_weights(
    rng.fold_in(0, 'clip'),
    MODEL,
    start,
    SHAPE,
    bound,
    layers=layers,
    data=spectral.ClipData(test, images, STEP),
  )
  return {
    'part': part,
    'bound': bound,
    'accuracy': info['accuracy'],
    'largest_before': max(x['before'] for x in info['layers']),
    'largest_after': max(x['after'] for x in info['layers']),
    'lipschitz_bound': lipschitz_bound(clipped),
  }


def main() -> None:
  """Writes all parts and bounds to a JSON, after each of them."""
  parser = cell_runs.parser(__doc__)
  parser.add_argument('--weights', required=True)
  parser.add_argument('--data_dir', required=True)
  parser.add_argument('--parts', nargs='+', default=['convs', 'all'])
  parser.add_argument('--bounds', nargs='+', type=float, default=[5, 2, 1])
  parser.add_argument('--images', type=int, default=1000, help='for statistics')
  parser.add_argument('--test', type=int, default=2000, help='test images')
  parser.add_argument('--out', required=True)
  flags = parser.parse_args()
  start = load_shipped(flags.weights)
  cifar = sources.load('cifar10', data_dir=flags.data_dir)
  images = splits.take(cifar.train, np.arange(flags.images))
  test = splits.take(cifar.test, np.arange(flags.test))
  about = {
    'command': 'python experiments/clip_resnet20.py --weights=FILE '
    '--data_dir=DIR --out=FILE',
    'commit': provenance.git_commit(cell_runs.ROOT),
    'images': flags.images,
    'test_images': flags.test,
    'lipschitz_bound_before': lipschitz_bound(start),
  }
  rows: list[dict[str, Any]] = []
  for part in flags.parts:
    for bound in flags.bounds:
      rows.append(clip(start, images, test, part, bound))
      files.write_json(flags.out, {'about': about, 'rows': rows})
      print(json.dumps(rows[-1]))


if __name__ == '__main__':
  shell.run_script(main)
