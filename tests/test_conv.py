"""Our convolution against JAX's own: values and derivatives of all orders."""

import functools
import itertools
import re

import jax
import numpy as np
import pytest
from close import assert_close
from jax import numpy as jnp

from cmu_jax.networks import conv, conv_plan

PADS = ('SAME', 'VALID', ((1, 2), (0, 3)))


def _pair(size, height=9, width=8, inner=4, outer=5, n=3):
  keys = jax.random.split(jax.random.key(0), 2)
  x = jax.random.normal(keys[0], (n, height, width, inner))
  return x, jax.random.normal(keys[1], (size, size, inner, outer))


def _same(form, x, w, window):
  """Compares one form of conv_plan with the direct one."""
  ours, direct = jax.jit(
    lambda x, w: (form(x, w, window), conv_plan.convolve_directly(x, w, window))
  )(x, w)
  assert direct.size
  assert_close(ours, direct)


def _value_and_gradients(convolve, x, w, stride, padding, **options):
  def loss(x, w):
    y = convolve(x, w, (stride, stride), padding, **options)
    return jnp.sum(jnp.sin(y)), y

  return jax.value_and_grad(loss, (0, 1), has_aux=True)(x, w)


def _same_as_stock(x, w, cases, **options):
  """Compares value and gradients for all (stride, padding) in one program."""

  @jax.jit
  def both(x, w):
    return [
      [_value_and_gradients(f, x, w, *case, **options) for case in cases]
      for f in (conv.convolve_canonical, conv.convolve_stock)
    ]

  assert_close(*both(x, w))


@pytest.mark.parametrize('size', (1, 3, 5, 7))
def test_gradients_are_those_of_jax(size):
  cases = list(itertools.product((1, 2), PADS))
  _same_as_stock(*_pair(size), cases)


@pytest.mark.parametrize(
  'inner,outer,n', ((1, 16, 70), (3, 8, 33), (32, 16, 20))
)
def test_each_cheaper_form_gives_the_same_gradients(inner, outer, n):
  cases = [(1, 'SAME'), (2, 'SAME')]
  _same_as_stock(*_pair(3, 12, 16, inner, outer, n), cases)


def test_dilations_and_groups_are_those_of_jax():
  x, w = _pair(3)
  options = {'lhs_dilation': (2, 1), 'rhs_dilation': (1, 2)}
  _same_as_stock(x, w, [(1, ((1, 1), (2, 2)))], **options)
  grouped = conv.convolve_canonical(
    x, w[:, :, :2, :4], (1, 1), 'SAME', feature_group_count=2
  )
  assert grouped.shape == (3, 9, 8, 4)


@pytest.mark.parametrize(
  'size,image,dilation,pads',
  (
    (5, (7, 4), (2, 2), (2, 3, 0, 4)),
    (3, (4, 5), (2, 3), (1, 1, 3, 0)),
    (1, (3, 2), (3, 2), (0, 1, 1, 0)),
    (2, (1, 6), (2, 1), (4, 0, 0, 0)),
    (4, (5, 5), (3, 3), (-1, 2, 3, -2)),
  ),
)
def test_phases_of_a_dilated_image(size, image, dilation, pads):
  x, w = _pair(size, *image, inner=2, outer=3, n=2)
  window = conv_plan.Window(
    (1, 1), ((pads[0], pads[1]), (pads[2], pads[3])), dilation
  )
  _same(conv_plan.convolve_by_phase, x, w, window)


@pytest.mark.parametrize('block', (2, 4, 16))
def test_blocks_of_channels_sum_to_the_whole(block):
  x, w = _pair(3, inner=11)
  window = conv_plan.Window((1, 1), ((1, 1), (0, 2)))
  _same(
    functools.partial(conv_plan.convolve_by_block, block=block), x, w, window
  )


@pytest.mark.parametrize('count,stride', ((2, 1), (4, 2)))
def test_columns_at_once(count, stride):
  x, w = _pair(3, 9, 16, inner=3)
  window = conv_plan.Window((stride, stride), ((1, 1), (1, stride % 2)))
  form = functools.partial(conv_plan.convolve_by_columns, count=count)
  _same(form, x, w, window)


def _derivatives(convolve, x, w):
  """Every kind of derivative and batching of a non-linear function."""
  dx, dw = jnp.cos(x), jnp.cos(w)

  def f(x, w):
    return jnp.sin(convolve(x, w, (2, 2), 'SAME'))

  def total(x, w):
    return jnp.sum(f(x, w))

  def slope(x, w):
    return jax.jvp(f, (x, w), (dx, dw))[1]

  xs, ws = jnp.stack([x, 2 * x, dx]), jnp.stack([w, dw, w + dw])
  _, linear = jax.linearize(f, x, w)
  both = (0, 1)
  return {
    'jvp': slope(x, w),
    'jvp of jvp': jax.jvp(slope, (x, w), (dx, dw)),
    'linearize': linear(dx, dw),
    'linear_transpose': jax.linear_transpose(linear, x, w)(f(x, w)),
    'linear_transpose of conv': jax.linear_transpose(
      lambda x: convolve(x, w, (2, 2), 'SAME'), x
    )(f(x, w)),
    'vmap x': jax.vmap(f, (0, None))(xs, w),
    'vmap w': jax.vmap(f, (None, 0))(x, ws),
    'vmap both': jax.vmap(f)(xs, ws),
    'vmap of grad': jax.vmap(jax.grad(total, both))(xs, ws),
    'per-sample': jax.vmap(jax.grad(total, both), (0, None))(xs, w),
    'grad of vmap': jax.grad(lambda a, b: jnp.sum(jax.vmap(f)(a, b)), both)(
      xs, ws
    ),
    'grad of grad': jax.grad(
      lambda x, w: sum(jnp.sum(g**2) for g in jax.grad(total, both)(x, w)),
      both,
    )(x, w),
    'grad of jvp': jax.grad(lambda x, w: jnp.sum(slope(x, w)), both)(x, w),
    'remat': jax.grad(jax.checkpoint(total), both)(x, w),
  }


@pytest.fixture(scope='module')
def derivatives():
  x, w = _pair(3, 5, 6, 2, 3, 2)
  return [
    jax.jit(functools.partial(_derivatives, convolve))(x, w)
    for convolve in (conv.convolve_canonical, conv.convolve_stock)
  ]


def test_derivatives_of_every_order(derivatives):
  ours, stock = derivatives
  for name in stock:
    try:
      assert_close(ours[name], stock[name])
    except AssertionError as error:
      raise AssertionError(name) from error


@pytest.mark.parametrize(
  'axes,looped', (((0, None), 0), ((None, 0), 1), ((0, 0), 1))
)
def test_batched_kernels_are_looped_over_not_grouped(axes, looped):
  x, w = _pair(3, 5, 6, 2, 3, 2)
  xs, ws = (
    a if axis is None else jnp.stack([a, 2 * a])
    for a, axis in zip((x, w), axes, strict=True)
  )

  def both(x, w):
    return conv.convolve_canonical(x, w, (1, 1), 'SAME')

  text = str(jax.make_jaxpr(jax.vmap(both, axes))(xs, ws))
  assert text.count('scan[') == looped
  assert 'feature_group_count' not in text


def test_both_gradients_consist_of_the_canonical_form():
  x, w = _pair(3)

  def loss(x, w):
    return jnp.sum(conv.convolve_canonical(x, w, (2, 2), 'SAME') ** 2)

  text = jax.jit(jax.grad(loss, (0, 1))).lower(x, w).as_text()
  layouts = set(re.findall(r'dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])', text))
  assert layouts == {'[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]'}


@pytest.mark.parametrize('dtype', (jnp.bfloat16, jnp.float16))
def test_dtypes_are_kept(dtype):
  x, w = (a.astype(dtype) for a in _pair(3))
  y = conv.convolve_canonical(x, w, (1, 1), 'SAME')
  assert y.dtype == dtype
  expected = conv.convolve_stock(x, w, (1, 1), 'SAME')
  np.testing.assert_allclose(
    y.astype(jnp.float32), expected.astype(jnp.float32), rtol=0.05, atol=0.05
  )


def test_the_form_is_that_of_the_backend():
  x, w = _pair(3)

  def is_canonical(run):
    text = str(jax.make_jaxpr(lambda x, w: run(x, w, (1, 1), 'SAME'))(x, w))
    return 'canonical_convolution' in text

  assert is_canonical(conv.convolve_canonical)
  assert not is_canonical(conv.convolve_stock)
  assert is_canonical(conv.convolve) == (jax.default_backend() == 'cpu')


def test_it_stands_in_for_the_convolution_of_linen():
  from flax import linen as nn

  x, _ = _pair(3)
  for padding in ('SAME', 'VALID', 1, ((1, 2), (0, 1))):
    ours, stock = (
      nn.Conv(
        5, (3, 3), (2, 2), padding=padding, conv_general_dilated=function
      ).init_with_output(jax.random.key(0), x)[0]
      for function in (conv.convolve, jax.lax.conv_general_dilated)
    )
    assert_close(ours, stock)
