r"""The corrective benchmark on the embedded handwritten digits.

Run:    python -m cmu_jax.main --config=configs/corrective_digits.py --sweep \
          --workdir=DIR
Full:   ...:full         (every method, ten identified fractions: half an hour)
Smoke:  ...:smoke
Time:   stated in docs/numbers.md, measured on 2 CPU cores.
Expect: no published numbers for this dataset; ours: docs/numbers.md.

Poison as published (corner trigger, target 0) and interclass confusion, with
sizes from a pilot on validation data. A 20 % share of the training images is
held out for selection.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.corrective import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg, smoke=False, full=False, seeds=(0, 1, 2), width=256
  )
  config = settings.base('corrective_digits')
  config.seeds = a.seeds
  config.poison.sizes = (60,)
  config.interclass.sizes = (116,)  # half of both classes
  config.interclass.pair = '3:5'
  config.model = dict(name='fc', width=a.width, dtype='float32')
  config.input.mean, config.input.std = (0.3,), (0.35,)
  config.train.update(steps=1000, batch_size=64)
  config.unlearn.update(steps=300, batch_size=64)
  config.scrub.update(steps=300, batch_size=64)
  config.ascent.update(batch_size=64)
  config.scrub_ascent_steps = 30
  config.ssd.batch_size = 64
  if a.full:
    settings.full(config)
    config.proxy_fraction = 0.1
  return settings.shrink(config) if a.smoke else config
