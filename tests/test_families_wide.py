"""Wide and deep families: sizes, agreement with PyTorch, first steps."""

import functools

import jax
import numpy as np
import optax
import pytest
import torch_nets
import torch_twin
from close import assert_close
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.core.types import Variables
from cmu_jax.networks import classifier, conv, layers, weights
from cmu_jax.networks.families import densenet, resnet, vgg, wrn

CLASSES = 5
PLAIN = functools.partial(layers.Conv, convolve=conv.convolve_canonical)
BIASED = functools.partial(PLAIN, bias_init=jax.nn.initializers.zeros)


def _body(name, more):
  """The body of a family, narrow and shallow; `more` makes it deeper."""
  bodies = {
    'resnet34': lambda: resnet.Body((1, 1 + more), 64, 'cifar', PLAIN),
    'resnet50': lambda: resnet.Body(
      (1 + more,) * (1 + more), 64, 'imagenet', PLAIN, bottleneck=True
    ),
    'wrn': lambda: wrn.Body(1 + more, 2, False, PLAIN),
    'wrn_corrective': lambda: wrn.Body(1 + more, 2, True, BIASED),
    'vgg19': lambda: vgg.Body(4, False, 20, BIASED, jnp.float32),
    'vgg19_bn': lambda: vgg.Body(4, True, 20, BIASED, jnp.float32),
    'densenet121': lambda: densenet.Body(
      (1 + more, 1 + 2 * more), 8, 4, 'imagenet', PLAIN
    ),
  }
  return bodies[name]()


SHAPES = {
  'resnet34': (9, 8, 3),
  'resnet50': (19, 16, 3),
  'vgg19': (64, 96, 3),
  'vgg19_bn': (64, 96, 3),
  'densenet121': (36, 30, 3),
}
NAMES = (
  'resnet34',
  'resnet50',
  'wrn',
  'wrn_corrective',
  'vgg19',
  'vgg19_bn',
  'densenet121',
)


@functools.cache
def _made(name, more=1):
  """A small model of a family, the shapes of its variables, and images."""
  model = networks.bind(classifier.Classifier(_body(name, more), CLASSES))
  rng = np.random.default_rng(2)
  shape = (3, *SHAPES.get(name, (8, 12, 3)))
  image = jnp.asarray(rng.standard_normal(shape, np.float32))
  template = jax.eval_shape(model.init, jax.random.key(0), image[:1])
  return model, template, image


def _drawn(rng, name, shape, fan_in):
  """Weights that keep the scale; statistics and affine terms that matter."""
  if name.endswith(('var', 'scale')) or (name[-6:] == 'weight' and not fan_in):
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)
  return rng.normal(0, (2 / (fan_in or 10)) ** 0.5, shape).astype(np.float32)


def _variables(template, seed):
  """Random variables; much quicker than the initialisation."""
  rng = np.random.default_rng(seed)

  def leaf(path, spec):
    fan_in = np.prod(spec.shape[:-1], dtype=int) if spec.ndim > 1 else 0
    return _drawn(rng, path[-1].key, spec.shape, fan_in)

  return jax.tree_util.tree_map_with_path(leaf, template)


def _state_dict(net, seed):
  """Random arrays in the names and layouts of a PyTorch network."""
  rng = np.random.default_rng(seed)
  return {
    name: _drawn(
      rng, name, value.shape, value[0].numel() if value.ndim > 1 else 0
    )
    for name, value in net.state_dict().items()
    if not name.endswith('num_batches_tracked')
  }


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name == 'vgg19'))
    for name in NAMES
  ],
)
def test_logits_are_those_of_pytorch(name):
  torch = torch_twin.torch()
  model, template, image = _made(name)
  net = torch_nets.NETS[name](CLASSES).eval()
  arrays = _state_dict(net, 5)
  tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
  net.load_state_dict(tensors, strict=False, assign=True)
  torch_name = networks.REGISTRY[name].torch_name
  variables, _ = weights.fit(arrays, template, torch_name, name)

  def split(variables, image):
    x = model.stem(variables, image)
    return model.head(variables, model.trunk(variables, x))

  with torch.no_grad():
    pixels = torch.tensor(np.asarray(image)).permute(0, 3, 1, 2)
    expected = net(pixels).numpy()
  assert expected.std(0).min() > 1e-3 * np.abs(expected).max()
  assert_close(torch_twin.quick(split, variables, image), expected, 3e-5)


def _loss(model, image, params, stats):
  """Cross-entropy in training mode, and the statistics that it moves."""
  logits, moved = model.update(Variables(params, stats), image)
  labels = jnp.arange(len(image))
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return jnp.mean(losses), moved


def _tangent(params):
  return jax.tree.map(lambda p: 1e-2 * np.cos(9 * p), params)


def _inner(a, b):
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return sum(float(np.vdot(p, q)) for p, q in pairs)


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', ('resnet50', 'wrn_corrective', 'vgg19', 'densenet121')
)
def test_gradients_are_those_of_differences(name):
  model, template, image = _made(name, more=0)
  params, stats = _variables(template, 6)
  loss = functools.partial(_loss, model, image)
  step = torch_twin.compile_quickly(
    jax.value_and_grad(loss, has_aux=True), params, stats
  )
  (_, moved), gradient = step(params, stats)
  square = _inner(gradient, gradient)

  def at(change):
    """The loss where the gradient says that it changes by `change`."""
    size = np.float32(change / square)
    there = jax.tree.map(
      lambda p, g: p + size * np.asarray(g), params, gradient
    )
    return float(step(there, stats)[0][0])

  assert at(5e-3) - at(-5e-3) == pytest.approx(1e-2, rel=0.05)
  old, new = jax.tree.leaves(stats), jax.tree.leaves(moved)
  assert all(np.abs(a - b).max() > 0 for a, b in zip(old, new, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_second_derivatives(name):
  model, template, image = _made(name, more=0)
  params, stats = _variables(template, 6)
  tangent = _tangent(params)

  def loss(params):
    return _loss(model, image, params, stats)[0]

  def derivatives(params):
    slope = lambda params: jax.jvp(loss, (params,), (tangent,))[1]
    forward = jax.jvp(slope, (params,), (tangent,))
    return forward, jax.jvp(jax.grad(loss), (params,), (tangent,))

  (slope, second), (gradient, product) = torch_twin.quick(derivatives, params)
  assert_close(_inner(gradient, tangent), slope, 1e-4)
  assert_close(_inner(product, tangent), second, 1e-3)
  assert abs(slope) > 1e-3 and abs(second) > 1e-5


@pytest.mark.parametrize('length,size', ((1, 7), (3, 7), (10, 7), (14, 7)))
def test_adaptive_means_are_over_the_windows_of_pytorch(length, size):
  x = np.random.default_rng(0).standard_normal((2, length, 5, 3), np.float32)
  got = jax.jit(vgg.adaptive_mean, static_argnums=1)(x, size)
  for i in range(size):
    rows = x[:, i * length // size : -(-(i + 1) * length // size)]
    for j in range(size):
      window = rows[:, :, j * 5 // size : -(-(j + 1) * 5 // size)]
      assert_close(got[:, i, j], window.mean((1, 2)), 1e-6)
  assert got.shape == (2, size, size, 3)


def _initial(name, chosen, **options):
  """Chosen initial values: the others are not even compiled."""
  model = networks.make(name, 40, (32, 32, 3), **options)
  image = jnp.zeros((1, 32, 32, 3))

  def some(key):
    params = model.init(key, image).params
    return [functools.reduce(dict.get, p.split('/'), params) for p in chosen]

  return torch_twin.quick(some, jax.random.key(0))


def test_initial_values_are_those_of_pytorch():
  kernel, hidden, head = _initial(
    'vgg19',
    ('body/features_2/kernel', 'body/classifier_3', 'head'),
    width=16,
    hidden=48,
  )
  assert np.std(kernel) == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.05)
  for layer in (hidden, head):
    assert np.std(layer['kernel']) == pytest.approx(0.01, rel=0.05)
    assert not np.any(layer['bias'])
  conv1, head = _initial(
    'wrn_corrective', ('body/stage2_block1/conv1', 'head'), depth=10, width=2
  )
  bound = (9 * 32) ** -0.5
  assert 0.99 * bound < np.abs(conv1['kernel']).max() <= bound
  assert not np.any(conv1['bias']) and not np.any(head['bias'])
