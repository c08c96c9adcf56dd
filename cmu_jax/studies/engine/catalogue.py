"""The methods by name. A new one is a line here.

Names that end in '_alone' do without D_R. All fine-tune for the same epochs
and have the same grid of learning rates. Names that begin with 'set_' are the
ablation of AMUN, arXiv 2503.00917, figure 1.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from cmu_jax.core.types import Method, Network
from cmu_jax.methods import (
  amun,
  ascent,
  relabelling,
  retraining,
  union_training,
)
from cmu_jax.robustness import attacks
from cmu_jax.studies.engine import bounds, recipes

# Of the weights that move, in SalUn and with AMUN.
SHARE = 0.5
_WORDS = {'retain': 'D_R', 'forget': 'D_F'}


class Sizes(NamedTuple):
  """How many images there are in D_R and in D_F."""

  retain: int
  forget: int


class Entry(NamedTuple):
  """A method.

  Attributes:
    make: (network, training) -> Method; (network) without a training.
    epoch: Sizes -> how many images an epoch goes through.
    part: the settings of its training; '' for one that does not train.
    says: what it does, in words.
    transferred: whether it is prepared on the network of another seed.
  """

  make: Callable[..., Method]
  epoch: Callable[[Sizes], int]
  part: str
  says: str
  transferred: bool = False


def _retain(sizes: Sizes) -> int:
  return sizes.retain


def _forget(sizes: Sizes) -> int:
  return sizes.forget


def _whole(sizes: Sizes) -> int:
  return sizes.retain + sizes.forget


def _with_adversarial(sizes: Sizes) -> int:
  return sizes.retain + 2 * sizes.forget


def _twice(sizes: Sizes) -> int:
  return 2 * sizes.forget


def _tuned(
  make: Callable[..., Method], epoch: Callable[[Sizes], int], says: str
) -> Entry:
  return Entry(make, epoch, 'unlearn', says)


# One point a learning rate: weights and strengths would only multiply it.
_rl = functools.partial(relabelling.random_label, weights=(1.0,))
_salun = functools.partial(relabelling.salun, weights=(1.0,), share=SHARE)
_ga = functools.partial(ascent.gradient_ascent, strengths=(1.0,))
_l1 = functools.partial(retraining.l1_sparse, penalties=(5e-4,))
_shrink = union_training.boundary_shrink

ENTRIES: dict[str, Entry] = {
  'retrain': Entry(retraining.retrain, _retain, 'train', 'trains anew on D_R'),
  'ft': _tuned(retraining.finetune, _retain, 'fine-tunes on D_R'),
  'rl': _tuned(_rl, _retain, 'trains D_F under random labels'),
  'ga': _tuned(
    ascent.alternating_ascent,
    _whole,
    'climbs the loss of D_F between epochs on D_R',
  ),
  'bs': _tuned(_shrink, _whole, 'trains D_F under its nearest classes'),
  'l1': _tuned(_l1, _retain, 'fine-tunes on D_R towards few weights'),
  'salun': _tuned(_salun, _retain, 'rl in the weights that D_F depends on'),
  'amun': _tuned(
    amun.amun, _with_adversarial, 'trains on near adversarial images of D_F too'
  ),
  'amun_salun': _tuned(
    functools.partial(amun.amun, share=SHARE),
    _with_adversarial,
    'amun in the weights that D_F depends on',
  ),
  'rl_alone': _tuned(
    functools.partial(_rl, retain=False), _forget, 'rl without D_R'
  ),
  'ga_alone': _tuned(_ga, _forget, 'climbs the loss of D_F'),
  'bs_alone': _tuned(
    functools.partial(_shrink, retain=False), _forget, 'bs without D_R'
  ),
  'salun_alone': _tuned(
    functools.partial(_salun, retain=False), _forget, 'salun without D_R'
  ),
  'amun_alone': _tuned(amun.amun_forget, _twice, 'amun without D_R'),
  'amun_salun_alone': _tuned(
    functools.partial(amun.amun_forget, share=SHARE),
    _twice,
    'amun_salun without D_R',
  ),
}
DEFAULT = tuple(name for name in ENTRIES if name != 'retrain')

# RL and SalUn with labels drawn at every access, as AMUN's tables have them.
_redrawn = union_training.redrawn_label
_redrawn_salun = functools.partial(_redrawn, share=SHARE)
PARITY = {
  f'{name}_redrawn{end}': _tuned(
    make if retain else functools.partial(make, retain=False),
    _whole if retain else _forget,
    f'{name}{end}, labels drawn at every access, one pass over the union',
  )
  for name, make in (('rl', _redrawn), ('salun', _redrawn_salun))
  for end, retain in (('', True), ('_alone', False))
}
# Other ways to D_A: along one FGSM direction, and of another network.
_march = functools.partial(amun.amun, attack=attacks.march(0.04))
VARIANTS = {
  'amun_ffgsm': _tuned(_march, _with_adversarial, 'amun, D_A by FFGSM'),
  'amun_ffgsm_alone': _tuned(
    functools.partial(_march, sets=amun.ALONE),
    _twice,
    'amun without D_R, D_A by FFGSM',
  ),
  'amun_transferred': _tuned(
    amun.amun, _with_adversarial, 'amun, D_A of the network of another seed'
  )._replace(transferred=True),
  'amun_transferred_alone': _tuned(
    amun.amun_forget,
    _twice,
    'amun without D_R, D_A of the network of another seed',
  )._replace(transferred=True),
}

# What makes D_A work: other elements in its place, in three kinds of sets.
_USES = {
  '': (amun.ALL, _with_adversarial, 'D and'),
  '_forget': (amun.ALONE, _twice, 'D_F and'),
  '_alone': (amun.ADVERSARIAL, _forget, 'nothing but'),
}
_ELEMENTS = {
  'adv': '(x_adv, y_adv)',
  'orig': '(x, y)',
  'advl': '(x, y_adv)',
  'rl': '(x, a third label)',
  'arl': '(x_adv, a third label)',
  'ars': '(as far in a random direction, y_adv)',
}
ABLATION = {
  f'set_{element}{use}': _tuned(
    functools.partial(amun.amun, element=element, sets=sets),
    epoch,
    f'trains on {says} {what}',
  )
  for element, what in _ELEMENTS.items()
  for use, (sets, epoch, says) in _USES.items()
}
ENTRIES |= {**PARITY, **VARIANTS, **ABLATION}


def make(
  config: ConfigDict,
  network: Network,
  sizes: Sizes,
  name: str,
  entries: dict[str, Entry] = ENTRIES,
  bounded: bounds.Layers = (),
) -> Method:
  """A method with its grid: one point a learning rate.

  Args:
    config: trainings and `learning_rates`.
    network: the model and its input step.
    sizes: of D_R and D_F.
    name: a key of the entries.
    entries: of the task.
    bounded: layers whose norms config.train bounds.
  """
  entry = entries[name]
  if not entry.part:
    return entry.make(network)
  images = entry.epoch(sizes)
  training = (
    bounds.bounded_training(config, bounded, images)
    if entry.part == 'train'
    else recipes.fit_options(config[entry.part], images, entry.part)
  )
  batch_size = min(training.batch_size, images)
  method = entry.make(network, training._replace(batch_size=batch_size))
  if name == 'retrain':
    return method
  grid = tuple(
    {**point, 'learning_rate': float(rate)}
    for point in method.grid
    for rate in config.learning_rates
  )
  return method._replace(grid=grid)


def information(name: str, method: Method) -> str:
  """What a method sees, in words."""
  parts = [words for part, words in _WORDS.items() if part in method.needs]
  return ' + '.join([*(['weights'] if name != 'retrain' else []), *parts])


def says(name: str, entries: dict[str, Entry] = ENTRIES) -> str:
  """What a method does, in words."""
  return 'nothing' if name == 'none' else entries[name].says
