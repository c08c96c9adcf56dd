"""The same attacks on the same weights by another library."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmu_jax.core import jit
from cmu_jax.robustness import attacks

torch = pytest.importorskip('torch', reason='torch is missing: .[bench]')
with warnings.catch_warnings():
  warnings.simplefilter('ignore')
  foolbox = pytest.importorskip(
    'foolbox', reason='foolbox is missing: pip install .[bench]'
  )

COUNT, SIDE, HIDDEN, CLASSES = 40, 6, 12, 4


def _weights():
  rng = np.random.default_rng(0)
  sizes = (SIDE * SIDE, HIDDEN), (HIDDEN, CLASSES)
  return [
    rng.standard_normal(size).astype(np.float32) / size[0] ** 0.5
    for size in sizes
  ]


def _ours(image):
  first, second = map(jnp.asarray, _weights())
  return 4 * jnp.tanh(3 * image.reshape(len(image), -1) @ first) @ second


class _Theirs(torch.nn.Module):
  def forward(self, image):
    first, second = map(torch.from_numpy, _weights())
    flat = image.reshape(len(image), -1)
    return 4 * torch.tanh(3 * flat @ first) @ second


def _problem():
  rng = np.random.default_rng(1)
  image = rng.uniform(0, 1, (COUNT, SIDE, SIDE, 1)).astype(np.float32)
  return image, np.asarray(_ours(image).argmax(-1)).astype(np.int32)


FOOL = foolbox.attacks
PAIRS = {
  'fgsm': (
    lambda eps: attacks.fgsm(eps),
    lambda eps: FOOL.LinfFastGradientAttack(random_start=False),
    0.05,
  ),
  'fgsm_l2': (
    lambda eps: attacks.fgsm(eps, 'l2'),
    lambda eps: FOOL.L2FastGradientAttack(random_start=False),
    0.5,
  ),
  'pgd': (
    lambda eps: attacks.pgd(eps, 'linf', 20, eps / 8, random_start=False),
    lambda eps: FOOL.LinfPGD(
      abs_stepsize=eps / 8, steps=20, random_start=False
    ),
    0.05,
  ),
  'pgd_l2': (
    lambda eps: attacks.pgd(eps, 'l2', 20, eps / 8, random_start=False),
    lambda eps: FOOL.L2PGD(abs_stepsize=eps / 8, steps=20, random_start=False),
    0.5,
  ),
}


def _theirs(attack, eps):
  """Adversarial images of foolbox, and where it succeeded."""
  image, label = _problem()
  network = foolbox.PyTorchModel(_Theirs().eval(), bounds=(0, 1))
  pixels = torch.from_numpy(image.transpose(0, 3, 1, 2))
  _, found, success = attack(
    network, pixels, torch.from_numpy(label).long(), epsilons=eps
  )
  return found.numpy().transpose(0, 2, 3, 1), success.numpy()


@pytest.mark.parametrize('name', PAIRS)
def test_foolbox_finds_the_same_images(name):
  ours, theirs, eps = PAIRS[name]
  image, label = _problem()
  found = jit.compile_cheaply(
    lambda x, y: ours(eps)(jax.random.key(0), _ours, x, y)
  )(image, label)
  wanted, success = _theirs(theirs(eps), eps)
  # A gradient within rounding of 0 has either sign.
  same = np.isclose(found.image, wanted, atol=1e-4).mean()
  assert same > 0.999
  np.testing.assert_array_equal(found.success, success)
  assert 0 < success.mean() < 1
