"""Repair of arrays: the work of the command without files."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import repair_case

import cmu_jax
from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.core.types import Batch, Network
from cmu_jax.networks import weights

MODEL = networks.make('fc', 10, (8, 8, 1), width=64)
NETWORK = Network(MODEL, repair_case.STEP)


def read(folder):
  template = jax.eval_shape(
    MODEL.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))
  )
  stored = weights.read(folder / 'w.npz')
  return weights.fit(stored.arrays, template, None, 'w')[0]


def read_pictures(folder):
  """The bad samples as arrays, in the order in which the command reads them."""
  from cmu_jax.data.sources import image_folder

  pictures = image_folder.read_folder(folder / 'bad', None, None)
  label = np.array([int(name or 0) for name in pictures.names])
  return pictures.image, label[pictures.group]


@pytest.fixture(scope='module', params=['label_noise', 'poison'])
def case(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  test, _ = repair_case.make(folder, request.param)
  return request.param, folder, test


def test_arrays_give_what_files_give(case):
  kind, folder, test = case
  common = {'kind': kind, 'steps': 30, 'learning_rate': 3e-4}
  common |= {'rule': 'published'} if kind == 'poison' else {}
  files = cmu_jax.repair(
    weights=str(folder / 'w.npz'),
    model='fc:width=64',
    proxy=str(folder / 'bad'),
    out=str(folder / 'out'),
    **common,
  )
  image, label = read_pictures(folder)
  result = cmu_jax.repair(
    NETWORK,
    image,
    label if kind == 'label_noise' else None,
    variables=read(folder),
    test=Batch(test.image, test.label),
    **common,
  )
  assert result.alpha == pytest.approx(files['alpha'])
  assert result.repaired == files['repaired']
  assert result.record['diagnosis'] == files['diagnosis']
  assert result.record['curve'] == files['curve']
  measured = result.record['measured']['after']
  assert 0 < measured['test_accuracy'] <= 1
  expected = weights.read(folder / 'out/repaired.npz').arrays
  leaves = jax.tree.leaves(result.variables)
  for array, leaf in zip(expected.values(), leaves, strict=True):
    np.testing.assert_array_equal(array, leaf)
  assert result.sentences[0].startswith(('Edited', 'Left'))


@pytest.mark.parametrize(
  'changes, text',
  [
    ({'labels': None}, 'labels= is missing'),
    ({'labels': np.zeros(3, int)}, 'give one each'),
    ({'labels': np.full(5, 10)}, '10'),
    ({'kind': 'posion', 'labels': None}, "did you mean 'poison'"),
    ({'stepz': 3}, "did you mean 'steps'"),
    ({'class_names': ['a']}, '1 names, the network 10 outputs'),
  ],
)
def test_what_does_not_fit_is_a_line(changes, text):
  image = np.zeros((5, 8, 8, 1), np.uint8)
  start = MODEL.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  given = {'labels': np.ones(5, int), 'variables': start, **changes}
  with pytest.raises(errors.UserError) as caught:
    cmu_jax.repair(NETWORK, image, given.pop('labels'), **given)
  assert text in str(caught.value)


class Plain(nn.Module):
  """A linen module of a user, without features."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(10)(x.reshape(len(x), -1))


def test_a_module_without_features_is_a_line():
  draw = np.random.default_rng(0)
  image = draw.integers(0, 256, (40, 8, 8, 1), np.uint8)
  start = Plain().init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  start = networks.as_variables(start)
  network = NETWORK._replace(model=Plain())
  with pytest.raises(errors.UserError, match='features'):
    cmu_jax.repair(network, image, np.arange(40) % 10, variables=start)


def test_a_proxy_of_own_wrong_labels_is_a_draw_of_itself():
  image = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
  proxy = cmu_jax.wrap_labels(image, [3, 1])
  assert (proxy.image == image).all() and proxy.has_trigger is None
  assert proxy.label.tolist() == [[3, 1]]
  assert proxy.positions.tolist() == [[0, 1]]
  for wrong, text in (
    ([3], 'one label an image'),
    ([-1, 2], 'class numbers'),
    ([0.5, 1.0], 'class numbers'),
  ):
    with pytest.raises(errors.UserError, match=text):
      cmu_jax.wrap_labels(image, wrong)
  with pytest.raises(errors.UserError, match='uint8'):
    cmu_jax.wrap_labels(image / 255, [3, 1])


def test_where_it_abstains_clean_labels_are_tried_on_the_network(case):
  kind, folder, test = case
  image, label = read_pictures(folder)
  result = cmu_jax.repair(
    NETWORK,
    image,
    label if kind == 'label_noise' else None,
    variables=read(folder),
    test=Batch(test.image[:100], test.label[:100]),
    kind=kind,
    steps=1,
    learning_rate=1e-9,
  )
  assert not result.repaired
  estimate = result.record['clean_estimate']
  assert (estimate is None) == (kind == 'poison')
  if estimate:
    assert estimate['labels'] == 50 and estimate['source'] == '--test'
    measured = result.record['measured']['before']['test_accuracy']
    assert estimate['before'] == pytest.approx(measured)
    # A rate of 1e-9 learns nothing from clean labels either.
    assert estimate['after'] == pytest.approx(estimate['before'])
