r"""The corrective benchmark on a folder of images, <root>/<split>/<class>/*.

Run:    python -m cmu_jax.main --config=configs/corrective_folder.py --sweep \
          --config.dataset=folder:PATH --workdir=DIR
Two classes: the confusion is of both, and nothing is left to retain.
Smoke:  ...:smoke --config.dataset=folder:PATH
Expect: no published numbers; PatchCamelyon is the paper's binary case.

Pictures are not mirrored in training; ...:flip mirrors half of them, where left
and right are alike (no signs, digits or words).

Sizes are counts of manipulated images: with few images set
--config.poison.sizes and --config.interclass.sizes.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.corrective import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg, smoke=False, full=False, seeds=(0, 1, 2), side=32, width=1, flip=False
  )
  config = settings.base('corrective_folder')
  config.dataset = 'folder:PATH'
  config.image_size = a.side
  config.seeds = a.seeds
  config.poison.sizes = (20,)
  config.interclass.sizes = (100,)
  config.interclass.pair = '0:1'
  config.model = dict(name='convnet', width=a.width, dtype='float32')
  config.input.pad, config.input.flip = 2, a.flip
  config.train.update(steps=600, batch_size=64)
  config.unlearn.update(steps=200, batch_size=64)
  config.scrub.update(steps=200, batch_size=64)
  config.scrub_ascent_steps = 20
  config.ascent.update(batch_size=64)
  config.ssd.batch_size = 64
  if a.full:
    settings.full(config)
  return settings.shrink(config) if a.smoke else config
