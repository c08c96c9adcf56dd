"""Other ways to make the adversarial set, as methods of a run."""

import pathlib

import pytest
import unlearning_case as case

from cmu_jax.core import config as configs
from cmu_jax.core.types import Method, MethodInputs, Variables
from cmu_jax.studies.subsets import addresses, settings, sweep, world

ROOT = pathlib.Path(__file__).parents[1]


def config(**changes):
  """Settings of a tiny run."""
  spec = f'{ROOT}/configs/amun_digits.py:smoke,references=0,width=8'
  return configs.load(spec, changes).config


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  small = config(train_limit='60', test_limit='40', methods='ft,')
  return world.load(small, tmp_path_factory.mktemp('place'))


def test_a_transferred_set_is_of_the_next_seed(place):
  at = addresses.Cell(1, 0, 'amun_transferred', 0)
  pair, three = (
    place._replace(config=config(seeds=seeds)) for seeds in ('0,1', '0,1,2')
  )
  assert addresses.donor(pair, at) == 0
  assert addresses.donor(three, at) == 2
  assert addresses.donor(three, at._replace(method='amun')) is None
  assert addresses.cell(pair, at, ()) != addresses.cell(three, at, ())
  seen = []
  method = Method(
    (),
    lambda key, variables, given: seen.append(('prepare', variables)),
    lambda key, variables, *rest: (
      seen.append(('solve', variables)) or variables,
      {'gradient_evaluations': 0},
    ),
  )
  own, other = Variables({'w': 1}, {}), Variables({'w': 2}, {})
  for source, used in ((other, other), (None, own)):
    seen.clear()
    sweep.solved(
      case.KEY, method, own, MethodInputs(), ({},), lambda found: {}, source
    )
    assert seen == [('prepare', used), ('solve', own)]


def test_variants_are_one_word_of_the_config():
  spec = f'{ROOT}/configs/amun_digits.py:smoke,references=0,width=8,variants'
  made = configs.load(spec, {}).config
  settings.check(made)
  assert len(made.seeds) == 2
  assert {'amun_ffgsm', 'amun_transferred', 'rl_redrawn'} <= set(made.methods)
