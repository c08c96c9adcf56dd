r"""LOTOS and TRS ensembles on the embedded handwritten digits.

Run:    python -m cmu_jax.main --config=configs/lotos_digits.py --workdir=DIR
Other:  ...:seeds=0+1+2+3+4     ...:members=5     ...:radius=0.05
Smoke:  ...:smoke
Time:   a few minutes on 2 CPU cores.
Expect: no published numbers for this dataset; ours: docs/numbers.md.

Ensembles of three strided networks without BatchNorm: plain, clipped to norms
of 1, LOTOS and TRS, each under the correct threat model and the released one.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.ensembles import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    seeds=(0, 1, 2),
    members=3,
    radius=0.1,
    width=1,
    epochs=30,
  )
  config = settings.base('lotos_digits')
  config.seeds, config.members = a.seeds, a.members
  config.model = dict(
    name='convnet', width=a.width, dtype='float32', norm='none'
  )
  config.input.mean, config.input.std = (0.3,), (0.35,)
  config.train.update(
    epochs=a.epochs,
    batch_size=64,
    optimizer='adamw',
    weight_decay=1e-4,
    learning_rate=3e-3,
    schedule='cosine',
    milestones=(),
    factor=1.0,
  )
  config.clip.every = 20
  # 40 and 2.5, made for CIFAR-10, keep these small networks from learning.
  config.trs.cosine, config.trs.smooth = 1.0, 0.05
  config.trs.radius = config.attack.radius = a.radius
  return settings.shrink(config) if a.smoke else config
