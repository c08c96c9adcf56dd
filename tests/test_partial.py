"""Training the last layers alone: what is frozen stays to the bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import unlearning_case as case
from hypothesis import given, settings
from hypothesis import strategies as st
from states import same

from cmu_jax import networks
from cmu_jax.core import errors, jit, tree
from cmu_jax.core.types import Variables
from cmu_jax.methods import retraining

CONV = (8, 8, 1)
FAMILIES = {
  'fc': ((4, 4, 1), {'depth': 3, 'width': 4}, 4),
  'convnet': (CONV, {}, 4),
  'resnet9': ((12, 12, 3), {'width': 2}, 9),
  'wrn': ((8, 8, 3), {'depth': 16, 'width': 1}, 14),
  'wrn_corrective': ((8, 8, 3), {'depth': 16, 'width': 2}, 14),
}
# k -> where the last k layers start, in the corrective unlearning benchmark.
CUTS = {1: 'head', 2: 'conv4', 4: 'res2_0', 5: 'conv3', 7: 'res1_0', 8: 'conv2'}


@pytest.fixture(autouse=True)
def _quickly():
  with jit.skip_optimizations(True):
    yield


def _paths(name):
  shape, options, _ = FAMILIES[name]
  model = networks.make(name, 3, shape, **options)
  image = jnp.zeros((1, *shape))
  return tree.leaves_by_path(
    jax.eval_shape(model.init, jax.random.key(0), image).params
  )


@pytest.mark.parametrize('name', FAMILIES)
def test_layers_are_all_modules_once(name):
  _, options, count = FAMILIES[name]
  layers = networks.REGISTRY[name].layers(**options)
  names = [module for layer in layers for module in layer]
  found = {
    path: [tree.is_under(path, (x,)) for x in names] for path in _paths(name)
  }
  assert len(layers) == count
  assert {sum(under) for under in found.values()} == {1}
  assert all(any(column) for column in zip(*found.values(), strict=True))
  assert layers[-1][-1] == 'head'


@pytest.mark.parametrize('last', CUTS)
def test_cuts_of_resnet9_are_the_published_ones(last):
  layers = [layer[0] for layer in networks.REGISTRY['resnet9'].layers()]
  frozen = networks.frozen_modules('resnet9', last, width=64)
  assert list(frozen) == layers[: len(layers) - last]
  assert layers[len(frozen)].removeprefix('body/') == CUTS[last]


def test_the_last_layers_of_the_benchmarks_wide_network():
  """5: the last two blocks and the head; 25: all but the first layer."""
  frozen = networks.frozen_modules('wrn_corrective', 5)
  assert frozen[-1] == 'body/stage3_block2/conv2'
  assert networks.frozen_modules('wrn_corrective', 25) == ('body/conv1',)
  assert networks.frozen_modules('wrn_corrective', -1) == ()
  assert networks.frozen_modules('fc', 1, depth=2) == (
    'body/hidden_0',
    'body/hidden_1',
  )


@pytest.mark.parametrize(
  ('call', 'words'),
  [
    (
      lambda: networks.frozen_modules('resnet9', 0),
      "0 last layers of 'resnet9'",
    ),
    (lambda: networks.frozen_modules('resnet9', 10), 'give 1 to 9, or -1'),
    (lambda: networks.frozen_modules('resnet', 1), "unknown model 'resnet'"),
    (lambda: networks.frozen_modules('vit_tiny', 1), 'to train in part'),
    (lambda: _tuned(retraining.finetune, ('body/conv_0',)), "'body/convs_0'"),
    (
      lambda: _tuned(retraining.retrain, ('body', 'head')),
      'leave one to train',
    ),
  ],
)
def test_mistakes_are_named_in_one_line(call, words):
  with pytest.raises(errors.UserError) as caught:
    call()
  assert words in str(caught.value) and '\n' not in str(caught.value)


@given(st.lists(st.sampled_from('abc'), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_a_path_is_under_its_prefixes_alone(names):
  path = tuple(names)
  prefixes = {'/'.join(path[:i]) for i in range(1, len(path) + 1)}
  tried = {*prefixes, 'a', 'b/c', 'ab', 'a/b'}
  assert {x for x in tried if tree.is_under(path, (x,))} == prefixes & tried
  assert not tree.is_under(path, ())


@functools.cache
def _network():
  return case.network('convnet', CONV)


def _tuned(factory, frozen):
  """Three steps with decay and momentum on a problem with statistics."""
  optimizer = optax.chain(
    optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9)
  )
  return case.solved(
    factory,
    None,
    case.given(CONV),
    network_of=_network(),
    optimizer=optimizer,
    frozen=frozen,
    steps=3,
  )


def _parts(variables, frozen):
  """Leaves in and outside of frozen modules, statistics included."""
  found = [*tree.leaves_by_path(variables.params).items()]
  found += tree.leaves_by_path(variables.batch_stats).items()
  inside = [leaf for path, leaf in found if tree.is_under(path, frozen)]
  return inside, [
    leaf for path, leaf in found if not tree.is_under(path, frozen)
  ]


@pytest.mark.parametrize('factory', [retraining.cf_k, retraining.eu_k])
def test_the_first_layers_stay_to_the_bit(factory):
  frozen = networks.frozen_modules('convnet', 2)
  _, _, found, info = _tuned(factory, frozen)
  before, after = _parts(_network()[1], frozen), _parts(found, frozen)
  assert len(before[0]) == 2 * (1 + 2 + 2)
  same(before[0], after[0])
  for old, new in zip(before[1], after[1], strict=True):
    assert not np.array_equal(old, new)
  assert info == {'gradient_evaluations': 3 * case.COUNT}


@pytest.mark.parametrize('name', ['convnet', 'resnet9'])
def test_held_modules_are_in_evaluation_mode(name):
  shape, options, _ = FAMILIES[name]
  model, variables = case.network(name, shape, **options)
  image, _ = case.seen(case.given(shape).retain)
  held = networks.freeze_norms(model, ('body',))
  both = lambda *args: (held.update(*args), model.apply(*args))
  (logits, stats), wanted = jit.compile_cheaply(both)(variables, image)
  np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
  same(stats, variables.batch_stats)


def test_holding_nothing_changes_nothing():
  model, variables = _network()
  image, _ = case.seen(case.given(CONV).retain)
  free, moved = jax.jit(networks.freeze_norms(model, ()).update)(
    variables, image
  )
  plain, also = jax.jit(model.update)(variables, image)
  same((free, moved), (plain, also))
  assert not np.allclose(free, model.apply(variables, image), atol=1e-3)


def test_a_held_first_layer_feeds_training_behind_it():
  """Statistics of the first layer stay, those behind follow the batch."""
  model, variables = _network()
  image, _ = case.seen(case.given(CONV).retain)
  held = networks.freeze_norms(model, networks.frozen_modules('convnet', 3))
  _, stats = jax.jit(held.update)(variables, image)
  same(stats['body']['norms_0'], variables.batch_stats['body']['norms_0'])
  for name in ('norms_1', 'norms_2'):
    old, new = variables.batch_stats['body'][name], stats['body'][name]
    assert not np.allclose(old['mean'], new['mean'])


def test_reset_takes_parameters_and_statistics_of_the_last_layers():
  old = Variables(
    {'a': {'w': 1}, 'b': {'w': 2}}, {'a': {'m': 3}, 'b': {'m': 4}}
  )
  new = jax.tree.map(lambda x: 10 * x, old)
  found = retraining.reinitialize(old, new, ('a',))
  assert found == Variables(
    {'a': {'w': 1}, 'b': {'w': 20}}, {'a': {'m': 3}, 'b': {'m': 40}}
  )


def test_retraining_all_layers_forgets_the_original():
  problem = case.given()
  model, variables = case.network()
  zero = model, jax.tree.map(jnp.zeros_like, variables)
  found, other = (
    case.solved(retraining.retrain, None, problem, network_of=start)[2]
    for start in (zero, (model, variables))
  )
  same(found, other)
