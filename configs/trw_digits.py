r"""TRW and others that forget one class of the embedded handwritten digits.

Run:    python -m cmu_jax.main --config=configs/trw_digits.py --workdir=DIR
Pieces: ... --minutes=5            (the same command continues)
Some:   ...:classes=(3,8)          (which are forgotten, each by itself)
Smoke:  ...:smoke
Time:   about 10 minutes on one CPU core.
Expect: no published numbers for this dataset; see the report.

Five networks of 1,200 images; hyperparameters are chosen on two other classes
and on held-out images of the training set. Six retrained networks a class are
the noise floor, and three of them against the others the control of U-LiRA.
"""

from cmu_jax import config as configs
from cmu_jax.class_unlearning import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    seeds=(0, 1, 2, 3, 4),
    classes=(1, 3, 4, 5, 8),
    retrained=6,
    width=256,
    epochs=60,
  )
  config = settings.base('trw_digits')
  config.seeds, config.retrained = a.seeds, a.retrained
  config.forget_classes = a.classes
  config.model = dict(name='fc', width=a.width, dtype='float32')
  config.input.mean, config.input.std = (0.3,), (0.35,)
  config.train.update(
    epochs=a.epochs,
    batch_size=64,
    milestones=(a.epochs // 2, 3 * a.epochs // 4),
  )
  config.unlearn.batch_size = 64
  return settings.shrink(config) if a.smoke else config
