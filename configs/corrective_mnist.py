r"""The corrective benchmark on MNIST.

Run:    python -m cmu_jax.main --config=configs/corrective_mnist.py --sweep \
          --config.data_dir=DIR --workdir=DIR2
Pieces: ... --minutes=30     (the same command continues)
MLP:    ...:model=fc,width=256  (for one core)
Full:   ...:full             (every method, ten fractions: ten hours, in pieces)
Smoke:  ...:smoke --config.data_dir=DIR
Expect: no published numbers for this dataset; ours, of an MLP, are
        in docs/numbers.md.

Poison of 600 images; classes 4 and 9 confused, half of each, by a pilot on
validation data (results/corrective_pilot_mnist.json). Half of the test split
is for selection, the other half is reported.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.corrective import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg, smoke=False, full=False, seeds=(0, 1, 2), model='convnet', width=1
  )
  config = settings.base('corrective_mnist')
  config.dataset = 'mnist'
  config.seeds = a.seeds
  config.validation = 'test_half'
  config.poison.sizes = (600,)
  config.interclass.sizes = (5842,)
  config.interclass.pair = '4:9'
  config.model = dict(name=a.model, width=a.width, dtype='float32')
  config.input.mean, config.input.std = (0.1307,), (0.3081,)
  config.train.update(steps=1000, batch_size=256)
  config.unlearn.update(steps=300, batch_size=256)
  config.scrub.update(steps=300, batch_size=256)
  config.scrub_ascent_steps = 30
  config.ascent.update(batch_size=256)
  if a.full:
    settings.full(config)
  return settings.shrink(config) if a.smoke else config
