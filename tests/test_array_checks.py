"""Public functions refuse arrays that would end in a wrong result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cmu_jax
from cmu_jax import audits, networks
from cmu_jax.core import array_checks, errors
from cmu_jax.core.types import (
  Batch,
  MethodInputs,
  Network,
  Proxy,
  Samples,
  Training,
  Variables,
)
from cmu_jax.data import input_step
from cmu_jax.methods.cuts import alpha_search
from cmu_jax.training import metrics, optimizers

KEY = jax.random.key(0)
CLASSES, COUNT = 3, 12
NETWORK = Network(
  networks.make('fc', CLASSES, (4, 4, 1), width=4),
  input_step.make((0.5,), (0.5,)),
)
START = NETWORK.model.init(KEY, jnp.zeros((1, 4, 4, 1)))
RATE = optimizers.constant_schedule(0.1)
TRAINING = Training(optimizers.sgd(RATE), 2, 4)
IMAGE = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 1), np.uint8)
LABEL = np.arange(COUNT, dtype=np.int32) % CLASSES


def batch(image=IMAGE, label=LABEL):
  return Batch(jnp.asarray(image), jnp.asarray(label))


def proxy(**changes):
  every = jnp.arange(COUNT, dtype=jnp.int32)[None]
  values = {'positions': every, 'label': jnp.asarray(LABEL)[None], **changes}
  return Proxy(image=jnp.asarray(IMAGE), **values)


def tree_of(**shapes):
  return {name: jnp.ones(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
  ('first', 'second', 'leaf'),
  [
    (tree_of(a=(4, 1)), tree_of(a=(1, 4)), "'a'"),
    (tree_of(a=(2,), bias=(7,)), tree_of(a=(2,), bias=(1,)), "'bias'"),
    (tree_of(scale=()), tree_of(scale=(5,)), "'scale'"),
    (tree_of(kernel=(3, 3)), tree_of(kernel=(3,)), "'kernel'"),
    (tree_of(a=(2,), b=(2,)), tree_of(a=(2,)), r"lacks \['b'\]"),
    (tree_of(a=(2,)), tree_of(c=(2,)), r"lacks \['a'\]"),
  ],
)
@pytest.mark.parametrize('traced', [False, True])
@pytest.mark.parametrize('call', [cmu_jax.task_vector, 'edit'])
def test_shapes_that_differ_do_not_broadcast(first, second, leaf, traced, call):
  if call == 'edit':
    call = lambda params, tau: cmu_jax.edit(params, tau, 0.5)
  call = jax.jit(call) if traced else call
  with pytest.raises(errors.UserError, match=leaf):
    call(first, second)
  call(first, first)


def test_an_edit_takes_a_single_alpha():
  params = tree_of(a=(4,))
  with pytest.raises(errors.UserError, match=r'alpha has shape \(4,\)'):
    cmu_jax.edit(params, params, jnp.ones(4))
  for alpha in (np.nan, jnp.inf, -np.inf, jnp.bfloat16(np.nan)):
    with pytest.raises(errors.UserError, match='give a finite number'):
      cmu_jax.edit(params, params, alpha)
  image = jnp.zeros((1, 4, 4, 1))
  for alphas in ([0.1, np.nan], jnp.ones(()), jnp.ones((2, 2)), ()):
    with pytest.raises(errors.UserError, match='no grid: give a vector'):
      cmu_jax.curve(NETWORK.model, START, START.params, image, alphas, max)
  grid = jax.vmap(lambda alpha: cmu_jax.edit(params, params, alpha))
  assert grid(jnp.ones(3))['a'].shape == (3, 4)


def test_names_that_freeze_nothing():
  with pytest.raises(errors.UserError, match="did you mean 'head'"):
    cmu_jax.edit_predicate(
      Variables({'body': {}, 'head': jnp.ones(2)}, {}), ('heda',)
    )
  with pytest.raises(errors.UserError, match="distribution 'gaussian'"):
    cmu_jax.random_like(KEY, tree_of(a=(2,)), 'gaussian')


LABELS = {
  'label -2 of sample 0': LABEL - 2,
  'count from 1 to 3: subtract 1': LABEL + 1,
  'go up to 12, but 3 classes': LABEL + 10,
}
SHAPES = {
  r'one-hot, \(12, 3\): give labels.argmax': np.eye(3, dtype=np.int32)[LABEL],
  r'shape \(12, 1\): flatten': LABEL[:, None],
  '12 images with 7 labels': LABEL[:7],
  '12 images with 24 labels': np.tile(LABEL, 2),
}
IMAGES = {
  'pixels from .* 255 is needed: give': IMAGE / np.float32(255),
  'from -1 to 0.9.*; give raw': IMAGE / np.float32(127.5) - 1,
  'from .* to 2.49e.04; give raw': IMAGE.astype(np.float32) * 100,
  'NaN or infinite pixels': np.where(IMAGE > 9, np.nan, IMAGE).astype('f4'),
}
MISFITS = {
  r'not \[n, h, w, c\]: add the axis of a single channel': IMAGE[..., 0],
  r'not \[n, h, w, c\]: reshape each row': IMAGE.reshape(COUNT, 16),
  r'4, 3\) do not fit the network .* \(48, 4\), .*channels': np.repeat(
    IMAGE, 3, 3
  ),
  r'3, 4, 1\) do not fit the network': IMAGE[:, :3],
}


@pytest.mark.parametrize('said', [*LABELS, *IMAGES, *MISFITS])
@pytest.mark.parametrize('stacked', [False, True])
def test_fit_refuses_data_that_it_would_misread(said, stacked):
  images = {**IMAGES, **MISFITS}
  data = (
    batch(label=LABELS[said]) if said in LABELS else batch(image=images[said])
  )
  key, variables, strategy = KEY, START, None
  if stacked:
    key, strategy = jax.random.split(KEY, 2), 'map'
    variables, data = jax.tree.map(
      lambda x: jnp.stack([x, x]), (variables, data)
    )
  with pytest.raises(errors.UserError, match=said):
    cmu_jax.fit(key, NETWORK, variables, data, TRAINING, strategy=strategy)


@pytest.mark.parametrize('said', MISFITS)
def test_images_that_do_not_fit_are_one_line(said):
  data = batch(image=MISFITS[said])
  wrong = proxy()._replace(image=data.image)
  method = cmu_jax.amun(NETWORK, TRAINING)
  for call in (
    lambda: metrics.predict(NETWORK, START, data),
    lambda: metrics.logits(NETWORK, START, data),
    lambda: method(KEY, START, MethodInputs(samples(), samples(image=data[0]))),
    lambda: cmu_jax.direction(KEY, NETWORK, START, wrong, TRAINING),
    lambda: cmu_jax.select_alpha(
      NETWORK,
      START,
      START.params,
      wrong,
      selection=alpha_search.Selection(),
    ),
  ):
    with pytest.raises(errors.UserError, match=said) as caught:
      call()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize('said', SHAPES)
def test_labels_and_images_are_as_many(said):
  data = batch(label=SHAPES[said])
  with pytest.raises(errors.UserError, match=said):
    cmu_jax.fit(KEY, NETWORK, START, data, TRAINING)
  every = jnp.ones(COUNT, bool)
  method = cmu_jax.amun(NETWORK, TRAINING)
  with pytest.raises(errors.UserError, match=said):
    inputs = MethodInputs(samples(), Samples(data, every, every))
    method(KEY, START, inputs)


def test_fit_takes_bytes_and_floats_of_bytes():
  """Adversarial images are floats; a loss may read labels as positions."""
  for image in (IMAGE, IMAGE + np.float32(0.25)):
    cmu_jax.fit(KEY, NETWORK, START, batch(image), TRAINING)
  positions = batch(label=np.arange(COUNT, dtype=np.int32))
  loss = lambda logits, label: jnp.mean(logits, axis=-1) * label
  cmu_jax.fit(KEY, NETWORK, START, positions, TRAINING, loss=loss)


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'label': jnp.asarray(LABEL - 1)[None]}, 'label -1 of sample 0'),
    ({'label': jnp.asarray(LABEL + 1)[None]}, 'subtract 1'),
    ({'positions': jnp.arange(1, COUNT + 1)[None]}, 'from 0 to 11'),
    ({'positions': jnp.arange(COUNT)[None] - 1}, 'from 0 to 11'),
  ],
)
def test_a_proxy_that_does_not_fit(changes, said):
  with pytest.raises(errors.UserError, match=said):
    cmu_jax.direction(KEY, NETWORK, START, proxy(**changes), TRAINING)


def test_a_target_that_is_no_class():
  tau = jax.tree.map(jnp.zeros_like, START.params)
  for target in (-1, CLASSES):
    rule = alpha_search.Selection(kind='poison', target=target)
    with pytest.raises(errors.UserError, match='classes 0 to 2'):
      cmu_jax.select_alpha(NETWORK, START, tau, proxy(), selection=rule)
  wide = jax.tree.map(lambda leaf: jnp.ones((2, *leaf.shape)), tau)
  rule = alpha_search.Selection(kind='poison')
  with pytest.raises(errors.UserError, match='parameters and tau differ'):
    cmu_jax.select_alpha(NETWORK, START, wide, proxy(), selection=rule)


def samples(**changes):
  every = jnp.ones(COUNT, bool)
  return Samples(batch(**changes), every, every)


@pytest.mark.parametrize(
  ('data', 'said'),
  [
    (MethodInputs(samples()), 'needs forget'),
    (
      MethodInputs(samples(), batch()),
      'forget is of type Batch; .*_batch',
    ),
    (MethodInputs(samples(), samples(label=LABEL - 1)), 'labels of forget'),
    (MethodInputs(samples(image=IMAGES[next(iter(IMAGES))]), samples()), 'ret'),
  ],
)
def test_a_method_names_the_part_of_its_data(data, said):
  method = cmu_jax.amun(NETWORK, TRAINING)
  with pytest.raises(errors.UserError, match=said):
    method(KEY, START, data)
  said = r'takes MethodInputs\(retain=..., forget=...\), not Samples'
  with pytest.raises(errors.UserError, match=said):
    array_checks.check_inputs(method.needs, samples())


@pytest.mark.parametrize(
  'name', ['softmax', 'logit_confidence', 'taylor_softmax']
)
@pytest.mark.parametrize('shift', [-1, 1, 9])
def test_signals_take_classes_only(name, shift):
  """A gather would take another class's probability for that of the label."""
  logits = jnp.eye(CLASSES)[LABEL]
  signal = audits.SIGNALS[name]
  with pytest.raises(errors.UserError, match='labels'):
    signal(logits, jnp.asarray(LABEL + shift))
  assert jnp.isfinite(signal(logits, jnp.asarray(LABEL))).all()
  with pytest.raises(errors.UserError, match='true labels'):
    audits.draw_other_labels(KEY, LABEL, LABEL + shift, CLASSES)


def test_padded_rows_are_not_read():
  label = np.where(np.arange(COUNT) < 9, LABEL, -1)
  padded = samples(label=label)._replace(valid=jnp.arange(COUNT) < 9)
  array_checks.check_inputs(('retain',), MethodInputs(padded))


def test_checks_cost_nothing_inside_a_trace():
  """Traced values pass, and leave no operation in the program."""

  def checked(image, label, params):
    array_checks.check_pixels('images', image)
    array_checks.check_labels('labels', label, CLASSES)
    return cmu_jax.edit(params, params, 0.5)

  args = jnp.ones((2, 4, 4, 1)), jnp.full(2, -1), tree_of(a=(3,))
  plain = jax.make_jaxpr(lambda image, label, p: jax.tree.map(
    lambda x: (x - 0.5 * x).astype(x.dtype), p
  ))(*args)  # fmt: skip
  assert str(jax.make_jaxpr(checked)(*args)) == str(plain)
