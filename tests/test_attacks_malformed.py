"""What attacks refuse, each in one line."""

import re

import jax
import jax.numpy as jnp
import pytest
from attack_case import SHAPE, drawn, images, linear

from cmu_jax import networks
from cmu_jax.core import errors, jit
from cmu_jax.core.types import Batch, Network
from cmu_jax.data import input_step
from cmu_jax.robustness import attacks

NORMAL = input_step.make((0.4,), (0.3,))


@pytest.fixture(autouse=True, scope='module')
def _quickly():
  with jit.skip_optimizations(True):
    yield


def _bad(image=None, label=None, attack=None):
  model = networks.make('fc', 3, SHAPE, width=8)
  start = jnp.zeros((1, *SHAPE))
  variables = jit.compile_cheaply(model.init)(jax.random.key(0), start)
  good = images(0, 4)
  image = good if image is None else image(good)
  label = jnp.zeros(4, jnp.int32) if label is None else label
  attack = attack or attacks.fgsm(0.1)
  network = Network(model, NORMAL)
  see = attacks.logits_of(network, variables)
  ways = (
    lambda: attack(jax.random.key(0), see, image, label),
    lambda: attacks.attack_split(
      jax.random.key(0),
      attack,
      network,
      variables,
      Batch(255 * image, label),
    ),
  )
  for way in ways:
    with pytest.raises(errors.UserError) as caught:
      way()
    assert '\n' not in str(caught.value)
    yield str(caught.value)


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    (dict(image=lambda x: x.at[2, 0, 0, 0].set(jnp.nan)), 'image 2 .* NaN'),
    (dict(image=lambda x: x.at[1, 0, 0, 0].set(-0.1)), 'image 1 .* outside'),
    (dict(image=lambda x: x.at[3, 0, 0, 0].set(1.1)), 'image 3 .* outside'),
    (dict(label=jnp.array([0, 1, 3, 2])), 'label 3 of image 2'),
    (dict(label=jnp.array([0, -1, 1, 2])), 'label -1 of image 1'),
    (dict(image=lambda x: x[:0], label=jnp.zeros(0, int)), 'no images'),
  ],
)
def test_bad_images_and_labels_are_one_line(change, says):
  for message in _bad(**change):
    assert re.search(says, message), message


@pytest.mark.parametrize(
  'make',
  [
    lambda: attacks.fgsm(0.0),
    lambda: attacks.fgsm(-0.1),
    lambda: attacks.fgsm(float('nan')),
    lambda: attacks.fgsm(0.1, 'l3'),
    lambda: attacks.fgsm(0.1, loss='crossentropy'),
    lambda: attacks.ffgsm(0.1, 0.0),
    lambda: attacks.pgd(0.1, steps=0),
    lambda: attacks.pgd(0.1, step=-1.0),
    lambda: attacks.pgd(0.1, restarts=0),
    lambda: attacks.pgd(0.1, random_start=False, restarts=2),
    lambda: attacks.autopgd(0.1, steps=0),
    lambda: attacks.autopgd(0.0),
    lambda: attacks.minimal_pgd(0.0),
    lambda: attacks.minimal_pgd(0.1, step=2.0),
    lambda: attacks.minimal_pgd(0.1, norm='l1'),
  ],
)
def test_bad_settings_are_one_line(make):
  with pytest.raises(errors.UserError) as caught:
    make()
  assert '\n' not in str(caught.value)


def test_dlr_of_two_classes_is_one_line():
  attack = attacks.autopgd(0.1, loss='dlr')
  with pytest.raises(errors.UserError, match='3 classes'):
    attack(jax.random.key(0), linear(drawn(0)), images(0, 2), jnp.zeros(2, int))
