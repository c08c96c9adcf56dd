"""New running statistics after a clip."""

import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from spectral_case import SHAPE, Small, equal, network, true_norms

from cmu_jax.core import errors, jit
from cmu_jax.core.types import Batch, Model
from cmu_jax.robustness import spectral

BOUND = 0.8


@pytest.fixture(autouse=True)
def _compiled_cheaply():
  with jit.skip_optimizations(True):
    yield


@functools.cache
def case():
  """(apply, variables) of a small network."""
  return network(Small(), SHAPE)


@functools.cache
def restated():
  """The small network as a Model, clipped with new running statistics."""
  apply, variables = case()
  module = Small()

  def update(variables, image):
    logits, held = module.apply(
      variables._asdict(), image, train=True, mutable=['batch_stats']
    )
    return logits, held['batch_stats']

  whole = lambda variables, image: image
  model = Model(lambda key, image: variables, apply, update, apply, whole)
  image = 2 + jax.random.normal(jax.random.key(1), (40, *SHAPE))
  label = jnp.argmax(apply(variables, image), 1).astype(jnp.int32)
  images = Batch(image, label)
  done, info = spectral.clip_weights(
    jax.random.key(0),
    model,
    variables,
    SHAPE,
    BOUND,
    data=spectral.ClipData(images, images),
  )
  return model, images, done, info


@pytest.mark.slow
def test_new_statistics_are_of_the_clipped_network_and_within_the_bound():
  apply, _ = case()
  model, images, done, info = restated()
  assert max(true_norms(apply, done).values()) <= BOUND * 1.001
  first = done.params['first']
  seen = jax.lax.conv_general_dilated(
    images.image, first['kernel'], (1, 1), 'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  ) + first['bias'][None, None, None]  # fmt: skip
  found = done.batch_stats['norm']
  np.testing.assert_allclose(found['mean'], seen.mean((0, 1, 2)), rtol=1e-3)
  np.testing.assert_allclose(found['var'], seen.var((0, 1, 2)), rtol=1e-3)
  after = {row['path']: row['after'] for row in info['layers']}
  np.testing.assert_allclose(
    after['norm'], true_norms(apply, done)['norm'], rtol=1e-4
  )
  assert set(info['accuracy']) == {
    'before', 'after', 'rescaled', 'reestimated', 'rescaled_reestimated'
  }  # fmt: skip
  data = spectral.ClipData(images=images)
  again, _ = spectral.clip_weights(
    jax.random.key(3), model, done, SHAPE, BOUND, data=data
  )
  assert equal(again, done)


def test_new_statistics_need_to_know_how_they_are_updated():
  apply, variables = case()
  with pytest.raises(errors.UserError, match='Model'):
    spectral.clip_weights(
      jax.random.key(0),
      apply,
      variables,
      SHAPE,
      BOUND,
      data=spectral.ClipData(images=restated()[1]),
    )
