"""Public functions refuse values of another type in one line of their own."""

import inspect

import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from test_array_checks import (
  IMAGE,
  KEY,
  LABEL,
  NETWORK,
  START,
  TRAINING,
  batch,
  proxy,
)

import cmu_jax
from cmu_jax import audits, data, networks
from cmu_jax.core import array_checks, errors
from cmu_jax.core.types import Batch, MethodInputs, Training
from cmu_jax.data import corruption, input_step, splits
from cmu_jax.methods import factories
from cmu_jax.robustness import attacks
from cmu_jax.training import descent, metrics

METHOD = cmu_jax.amun(NETWORK, TRAINING)
PGD = attacks.pgd(0.1, steps=2)
TREE = START.params


def fit(key=KEY, network=NETWORK, start=START, training=TRAINING, **options):
  return cmu_jax.fit(
    key, network, start, options.pop('batch', batch()), training, **options
  )


def method(key=KEY, start=START, **parts):
  call = cmu_jax.cuts(NETWORK, TRAINING)
  return call(key, start, MethodInputs(**{'proxy': proxy(), **parts}))


def select(selection=None, sample=None, network=NETWORK):
  return cmu_jax.select_alpha(
    network,
    START,
    TREE,
    proxy() if sample is None else sample,
    selection=selection or cmu_jax.Selection(),
  )


# Calls with a value of another type, by the beginning of the error.
WRONG_TYPES = {
  'key is 7; give jax.random.key': lambda: fit(7),
  'key is 1.5; give': lambda: method(1.5),
  'key is None; give': lambda: cmu_jax.random_like(None, TREE),
  'key is of type list': lambda: cmu_jax.make_proxy(
    [0], 'poison', batch(), 1, 3
  ),
  r'key has shape \(3,\); give a single': lambda: method(
    jax.random.split(KEY, 3)
  ),
  'key is 3; give jax': lambda: NETWORK.model.init(3, IMAGE[:1]),
  'key is 4; give jax': lambda: attacks.attack_split(
    4, PGD, NETWORK, START, batch()
  ),
  'key is 5; give jax': lambda: corruption.symmetric(5, LABEL, 0.5, 3),
  'optimizer of the training is 0.3': lambda: fit(training=Training(0.3, 2, 4)),
  "optimizer of the training is 'adam'": lambda: cmu_jax.direction(
    KEY, NETWORK, START, proxy(), Training('adam', 2, 4)
  ),
  "batch_size of the training is '8'": lambda: fit(
    training=TRAINING._replace(batch_size='8')
  ),
  'training is 0.5; give Training': lambda: fit(training=0.5),
  r'batch is of type tuple; give Batch\(': lambda: fit(batch=(IMAGE, LABEL)),
  'batch is of type Proxy': lambda: fit(batch=proxy()),
  'image of the batch is of type list': lambda: fit(
    batch=Batch(IMAGE.tolist(), LABEL)
  ),
  'batch is of type ndarray': lambda: metrics.predict(NETWORK, START, IMAGE),
  'batch is of type list': lambda: descent.whole_batch([IMAGE, LABEL]),
  'batch is of type dict': lambda: splits.take({'image': IMAGE}, LABEL),
  'pool is of type ndarray': lambda: cmu_jax.make_proxy(
    KEY, 'symmetric', IMAGE, 1, 3
  ),
  r'image_shape is \(9, 9\); give \(height': lambda: networks.make(
    'fc', 3, (9, 9)
  ),
  'image_shape is 32; give': lambda: networks.make('resnet20', 3, 32),
  'num_classes is 2.5; give an integer': lambda: networks.make(
    'fc', 2.5, (9, 9, 1)
  ),
  "width of model 'fc' is '4'": lambda: networks.make(
    'fc', 3, (9, 9, 1), width='4'
  ),
  "unknown model '18'": lambda: networks.make(18, 3, (9, 9, 1)),
  'training is 40; give Training': lambda: cmu_jax.cuts(NETWORK, 40),
  'network is of type Model; give Network': lambda: cmu_jax.amun(
    NETWORK.model, TRAINING
  ),
  'inputs of the network is None': lambda: fit(
    network=NETWORK._replace(inputs=None)
  ),
  "selection is 'poison'": lambda: cmu_jax.cuts(
    NETWORK, TRAINING, selection='poison'
  ),
  "unknown kind of selection 'noise'": lambda: select(
    cmu_jax.Selection(kind='noise')
  ),
  'proxy is 50; give a Proxy': lambda: method(proxy=50),
  'proxy is of type Batch': lambda: select(sample=batch()),
  'retain is of type Batch; give Samples': lambda: array_checks.check_inputs(
    ('retain',), MethodInputs(batch())
  ),
  'clean_proxy is of type Proxy; give Batch': lambda: array_checks.check_inputs(
    ('clean_proxy',), MethodInputs(clean_proxy=proxy())
  ),
  'variables is None; give Variables': lambda: method(start=None),
  "variables have no 'params'": lambda: fit(start=TREE),
  'variables is of type dict': lambda: cmu_jax.edit_predicate(TREE),
  'model is of type Network': lambda: cmu_jax.curve(
    NETWORK, START, TREE, IMAGE, [0.5], max
  ),
  'eligible is of type tuple': lambda: cmu_jax.task_vector(
    TREE, TREE, ('head',)
  ),
  'one of them is a single number': lambda: cmu_jax.edit(TREE, 0.5, 0.5),
  "alpha is 'x'|alpha is x; give": lambda: cmu_jax.edit(TREE, TREE, 'x'),
  "session is 'a.npz'": lambda: fit(session='a.npz'),
  "unknown strategy 'pmap'": lambda: fit(strategy='pmap'),
  "loss is 'l2'": lambda: fit(loss='l2'),
  "attack is 'fgsm'": lambda: cmu_jax.amun(NETWORK, TRAINING, attack='fgsm'),
  'source is 5': lambda: data.load(5),
  "mean is 'imagenet'": lambda: input_step.make('imagenet', (0.5,)),
  'trigger is True': lambda: input_step.make((0.5,), (0.5,), trigger=True),
  "argument of kind 'symmetric' 'target'": lambda: cmu_jax.make_proxy(
    KEY, 'symmetric', batch(), 1, 3, target=1
  ),
  'image is of type Batch': lambda: cmu_jax.wrap_labels(batch(), LABEL),
  'images are of type Batch': lambda: cmu_jax.repair(
    NETWORK, batch(), variables=START
  ),
  'variables= is missing': lambda: cmu_jax.repair(NETWORK, IMAGE, LABEL),
  "seed is '1'; give an integer": lambda: cmu_jax.repair(
    NETWORK, IMAGE, LABEL, variables=START, seed='1'
  ),
  'forget=, out= missing': lambda: cmu_jax.unlearn(weights='w', model='fc'),
  "unknown setting 'weight'": lambda: cmu_jax.audit(weight='w', out='o'),
  'path is of type Variables': lambda: cmu_jax.save_weights(
    START, 'w.npz', 0.5, 0.5
  ),
  "classes is 'abc'; give a list": lambda: cmu_jax.save_weights(
    'w.npz', START, 0.5, 0.5, classes='abc'
  ),
  'std is None; give numbers': lambda: cmu_jax.save_weights(
    'w.npz', START, 0.5, None
  ),
  'array of member scores is of type list': lambda: audits.auc([0.5], [0.1]),
  'target is 1; give an array': lambda: audits.lira(1, IMAGE, IMAGE > 9),
  r'logits have shape \(3,\); give one row': lambda: audits.softmax(
    jnp.ones(3), LABEL
  ),
}


@pytest.fixture
def as_shipped():
  """Functions without the type checks that only the suite has."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


@pytest.mark.usefixtures('as_shipped')
@pytest.mark.parametrize('said', WRONG_TYPES)
def test_a_value_of_another_type_is_one_line(said, tmp_path, monkeypatch):
  """The error names the argument before another library meets the value."""
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.UserError, match=said) as caught:
    WRONG_TYPES[said]()
  assert len(str(caught.value).splitlines()) == 1
  assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures('as_shipped')
@pytest.mark.parametrize('name', factories.FACTORIES)
def test_every_factory_refuses_what_is_no_network_or_training(name):
  make = factories.FACTORIES[name]
  names = inspect.signature(make).parameters
  correct = {
    'network': NETWORK,
    'training': TRAINING,
    'detector': None,
    **dict.fromkeys(('method', 'retraining', 'fallback'), METHOD),
    **dict.fromkeys(('single', 'several'), METHOD),
  }
  arguments = {name: value for name, value in correct.items() if name in names}
  wrong = [name for name in arguments if name != 'detector']
  assert wrong
  for name in wrong:
    with pytest.raises(errors.UserError, match=f'^{name} is 300; give '):
      make(**{**arguments, name: 300})


def test_keys_of_both_kinds_pass():
  for key in (KEY, jax.random.PRNGKey(1), jax.random.key(2, impl='rbg')):
    array_checks.check_key(key)
    array_checks.check_key(jax.random.split(key, 4), axes=1)
  jax.vmap(array_checks.check_key)(jax.random.split(KEY, 3))
  jax.jit(array_checks.check_key)(jax.random.PRNGKey(0))


@pytest.mark.parametrize(
  ('make', 'options'),
  [
    (attacks.pgd, {'steps': 10**7}),
    (attacks.pgd, {'steps': 10**4, 'restarts': 10**4}),
    (attacks.autopgd, {'steps': 2 * 10**6}),
    (attacks.march, {'marches': 2, 'restarts': 10**6}),
    (attacks.minimal_pgd, {'steps': 10**9}),
  ],
)
def test_an_attack_that_would_last_for_days(make, options):
  with pytest.raises(errors.UserError, match='at most 1,000,000 together'):
    make(0.1, **options)
