"""Numbers and addresses that a rewriting of the code must not change.

tests/pinned has a file for each run: its command, its rows, a digest of all its
numbers without clocks, and the machine that made them. Floats are equal to the
last digit only where XLA compiles the same program: with the same packages,
processor and number of cores. Elsewhere sums are taken in another order. A
short training makes less than 1e-4 of that (so does jax 0.12 against 0.10), but
a score close to a threshold may fall on its other side and make a rate or a
choice jump: a small share of the values is free to do so.

After a change that is meant to change numbers, this rewrites the files:

  PIN=write python -m pytest -m '' tests/test_pinned.py
"""

import os

import jax
import numpy as np
import pinned_run
import pytest
import small_run
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.core import config, provenance
from cmu_jax.core.types import Batch, Variables
from cmu_jax.data import input_step
from cmu_jax.studies.classes import trials as class_trials
from cmu_jax.studies.classes import world as classes
from cmu_jax.studies.corrective import trials as corrective_trials
from cmu_jax.studies.cuts import stages
from cmu_jax.studies.engine import binding, pool, run
from cmu_jax.studies.ensembles import study as ensembles
from cmu_jax.studies.membership import models as audit_models
from cmu_jax.studies.membership import world as audits
from cmu_jax.studies.negation import study as negation_study
from cmu_jax.studies.negation import world as negations
from cmu_jax.studies.subsets import trials, world

TOLERANCE = 1e-4
# The share of values that may jump on another machine.
JUMPS = 0.05
PINS = sorted(path.stem for path in pinned_run.FOLDER.glob('*.json'))


def _parameter(name):
  slow = pinned_run.read(name)['slow']
  return pytest.param(name, marks=pytest.mark.slow if slow else ())


@pytest.fixture(scope='module', params=map(_parameter, PINS))
def pair(request, tmp_path_factory):
  """A pin, and the same run with the code of today."""
  old = pinned_run.read(request.param)
  # Another test may have compiled the same program with other options.
  jax.clear_caches()
  with pytest.MonkeyPatch.context() as patch:
    small_run.keep_environment(patch)
    new = pinned_run.run(old, tmp_path_factory.mktemp(request.param) / 'w')
  if os.environ.get('PIN') == 'write':
    pinned_run.write(request.param, new)
    old = pinned_run.read(request.param)
  return old, new


def test_numbers_are_the_same_to_the_last_digit(pair):
  old, new = pair
  changed = pinned_run.differences(old['machine'], new['machine'])
  if changed:
    pytest.skip(f'pinned on another machine: {"; ".join(changed)}')
  assert pinned_run.differences(old['rows'], new['rows']) == []
  assert new['addresses'] == old['addresses']
  # Curves, tables of a grid, everything that is no row.
  assert new['digest'] == old['digest']


def test_numbers_are_close_on_every_machine(pair):
  old, new = pair
  assert new['config_hash'] == old['config_hash']
  outlines = [pinned_run.outline(pin['rows']) for pin in pair]
  assert pinned_run.differences(*outlines) == []
  moved = pinned_run.differences(old['rows'], new['rows'], TOLERANCE)
  assert len(moved) <= JUMPS * pinned_run.count(old['rows']), moved
  # The addresses of some cells say which hyperparameters were chosen.
  stable = set(old['addresses']) - set(old['chosen'])
  assert {name: new['addresses'][name] for name in stable} == {
    name: old['addresses'][name] for name in stable
  }


def _config(name):
  return config.load(f'{pinned_run.ROOT}/configs/{name}:smoke').config


def _cuts(folder):
  return [
    stages.locate_checkpoints(_config('cuts_digits.py'), folder).fingerprint
  ]


def _corrective(folder):
  del folder
  settings = _config('corrective_digits.py')
  summed = provenance.dataset_digest(binding.load(settings).dataset)
  case = corrective_trials.Case('poison', 60, 0)
  trial = corrective_trials.Trial(case, 0.5, 'ssd')
  return [
    corrective_trials.case_address(settings, summed, case),
    corrective_trials.trial_address(settings, summed, trial),
  ]


def _subsets(folder):
  made = _config('amun_digits.py')
  context = run.make_context(made, world.load(made, folder), folder)
  trial = trials.SubsetTrial(0, 0, 'ft', 0)
  return [
    pool.network_address(context, 'original 0'),
    trials.trial_address(context, trial, ({'learning_rate': 0.1},)),
  ]


def _classes(folder):
  made = _config('trw_digits.py')
  made.retrained = 6
  context = run.make_context(made, classes.load(made, folder), folder)
  trial = class_trials.ClassTrial(0, 1, 'trw')
  return [
    class_trials.retrained_address(context, trial),
    class_trials.trial_address(context, trial, ({'beta': 0.3},)),
  ]


def _membership(folder):
  settings = _config('rmia_digits.py')
  world = audits.load(settings)
  context = run.make_context(settings, world, folder)
  return [
    audit_models._training_address(context, method) for method in ('', 'amun')
  ]


def _ensembles(folder):
  del folder
  settings = _config('lotos_digits.py')
  data = provenance.dataset_digest(binding.load(settings).dataset)
  ensemble = ensembles.Ensemble('lotos', 0)
  return [
    ensembles.cell_address(settings, data, ensemble, measured)
    for measured in (False, True)
  ]


def _set(name, start):
  """A data set as a task, with images that count from `start`."""
  image = np.arange(start, start + 48, dtype=np.uint8).reshape(4, 2, 2, 3)
  part = Batch(jnp.asarray(image), jnp.asarray([0, 1, 0, 1], jnp.int32))
  data = negations.DataSet(name, part, part, part, ('a', 'b'), ('a {}.',))
  head = {'head': jnp.arange(6, dtype=jnp.float32)}
  model = networks.make('fc', 2, (2, 2, 3), width=1)
  return negations.Task(data, model, Variables({}, head))


def _negation(folder):
  """Of made-up sets: the real ones start from a CLIP that is trained here."""
  world = negations.World(
    input_step.make((0.5,), (0.5,)),
    _set('control', 100),
    (_set('forget', 0),),
    'digest of the CLIP',
  )
  made = _config('negation_clip.py')
  context = run.make_context(made, world, folder)
  vectors = [
    negation_study.Vector(0, 'task_vector', 1),
    negation_study.Vector(0, 'negmerge', None),
  ]
  return [negation_study.vector_address(context, v) for v in vectors]


ADDRESSES = {
  _cuts: [
    '5a4372d3b8dd2008f84c115cf50cd0ad90a339aa2b659d723980d2e1ef8ec4aa',
  ],
  _corrective: [
    '82444375fb77db45a194b9673dfeba92c7eac12a5f052e9cd329f9cf60dadd22',
    '8703dd825252674fefbfe360bd0a022574e9b8c9cd5b7b00b459892b8e07d1bd',
  ],
  _subsets: [
    '25ce43476ae9cd542ab73287cd1d6d3b2664843f709125dbd0309493e4db88ec',
    '9ad1021af0d4831d8e650e1e8607c3dd8351b42904161bb2235d0491bc426e63',
  ],
  _classes: [
    'c3cb41148475502a444a6d10e6a86b241bc11c2678d59136463baae17262da49',
    'd4d753c976a49a5be7595ad4cb2d2925eb7f47fd4ddc881d70580314df7c1573',
  ],
  _membership: [
    'f47ad7831dc0736a7f2a4785763fcaa74dfaa7ab19df2d0de36000a107042b9e',
    '1618ce8ce19fd573911fe74fdb86ed16aa11ae26ffc8c42e95d8c60ff247202c',
  ],
  _ensembles: [
    '74d78dddb55c580f72021497ccba2876937770e7f5e6b59ed302037c8a5c9237',
    'e4404ff712bf980185860633af9c6f996260dd6ea7f987226d01c8f10d40c53a',
  ],
  _negation: [
    '9c65844fc40834fa49ac5ee791137ff42ffa374bf758868669979ae694a7af95',
    '2f9b0ad67ba8ab3a3f5943b1bc8a6ca8dc6aa78b1473f7ec54719bbae4ec2a20',
  ],
}


@pytest.mark.parametrize('study', ADDRESSES, ids=lambda study: study.__name__)
def test_addresses_are_the_same(study, tmp_path):
  """A file of another address is orphaned: raise the version knowingly."""
  assert study(tmp_path) == ADDRESSES[study]
