"""Proxy sets: what is kept, how it is labelled, what is stamped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmu_jax.core import errors, rng
from cmu_jax.core.types import Batch
from cmu_jax.data import corruption, proxy_sets
from cmu_jax.data.corruption import triggers

KEY = rng.fold_in(12)
MNIST = np.repeat(
  np.arange(10), (118, 134, 119, 122, 116, 108, 118, 125, 117, 118)
)


def patch():
  return triggers.badnet(8, 8, margin=(0, 0))


def pool():
  image = (np.arange(MNIST.size) % 251).astype(np.uint8)
  return Batch(jnp.asarray(image)[:, None, None, None], jnp.asarray(MNIST))


def test_a_symmetric_proxy_flips_all_images_anew_in_each_draw():
  made = proxy_sets.make_proxy(KEY, 'symmetric', pool(), 2, 10)
  assert made.label.shape == (2, 1195) and made.has_trigger is None
  assert np.array_equal(made.positions, np.tile(np.arange(1195), (2, 1)))
  assert (np.asarray(made.label) != MNIST[None]).all()
  assert (made.label[0] != made.label[1]).any()


def test_an_asymmetric_proxy_keeps_the_flipped_only():
  pairs = corruption.CLASS_MAPS['mnist']
  made = proxy_sets.make_proxy(
    KEY, 'asymmetric', pool(), 1, 10, class_map=pairs
  )
  true = MNIST[np.asarray(made.positions[0])]
  assert made.label.shape == (1, 592)
  assert made.label[0].tolist() == [pairs[c] for c in true.tolist()]
  clean = proxy_sets.make_clean_proxy('asymmetric', pool(), class_map=pairs)
  assert np.array_equal(clean.label, true)


def test_a_poison_proxy_stamps_everything_but_the_target():
  made = proxy_sets.make_proxy(KEY, 'poison', pool(), 1, 10, trigger=patch())
  assert made.label.shape == (1, 1077)
  assert (MNIST[np.asarray(made.positions[0])] != 0).all()
  assert made.has_trigger.all() and not made.label.any()
  clean = proxy_sets.make_clean_proxy('poison', pool())
  assert clean.has_trigger is None and np.array_equal(clean.label, MNIST)


def test_draw_gathers_under_jit_and_vmap():
  made = proxy_sets.make_proxy(
    KEY, 'asymmetric', pool(), 2, 10, class_map={1: 2, 3: 4}
  )
  both = jax.jit(jax.vmap(lambda i: proxy_sets.draw_copy(made, i)))(
    jnp.arange(2)
  )
  one = proxy_sets.draw_copy(made, 1)
  assert np.array_equal(both.image[1], one.image)
  assert np.array_equal(both.label[1], one.label)
  assert np.array_equal(
    one.image[:, 0, 0, 0], np.asarray(made.positions[1]) % 251
  )


@pytest.mark.parametrize(
  'message,kind,options',
  [
    ('needs a class_map', 'asymmetric', {}),
    ('needs a trigger', 'poison', {}),
    ("did you mean 'symmetric'", 'symetric', {}),
    ('no image of the proxy pool', 'asymmetric', {'class_map': {7: 1}}),
  ],
)
def test_proxies_that_cannot_be_made(message, kind, options):
  some = Batch(jnp.zeros((4, 8, 8, 1), jnp.uint8), jnp.arange(4))
  with pytest.raises(errors.UserError, match=message):
    proxy_sets.make_proxy(KEY, kind, some, 1, 10, **options)
  with pytest.raises(errors.UserError, match='draws is 0'):
    proxy_sets.make_proxy(KEY, 'symmetric', some, 0, 10)
