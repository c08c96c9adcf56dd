"""Folded networks from random weights, without their normalisation."""

import jax
import torch_twin
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.networks.families import folded
from cmu_jax.networks.families.folded import LayerSpec


def _convolution(kind, number, shape):
  reads, makes = f'v{number}', f'v{number + 1}'
  return LayerSpec(kind, (reads,), makes, f'c{number}', 1, True, shape)


def test_the_signal_survives_many_depthwise_layers():
  shapes = {'depthwise': (32, 1, 3, 3), 'conv': (32, 32, 1, 1)}
  kinds = ('depthwise', 'conv') * 8
  body = (
    _convolution('conv', 0, (32, 3, 3, 3)),
    *(_convolution(k, i, shapes[k]) for i, k in enumerate(kinds, 1)),
    LayerSpec('global_average_pool', (f'v{len(kinds) + 1}',), 'features'),
  )
  head = LayerSpec('conv', ('features',), 'y', 'head', 1, False, (5, 32, 1, 1))
  model = networks.bind(folded.build(folded.NetworkSpec(6, body, head)))
  image = jax.random.normal(jax.random.key(0), (4, 6, 6, 3))

  def seen(image):
    return model.features(model.init(jax.random.key(1), image), image)

  # Fan-out weights leave less than a millionth of it.
  assert 0.01 < float(jnp.std(torch_twin.quick(seen, image))) < 6
