r"""TRW and others that forget one class of MNIST.

Run:    python -m cmu_jax.main --config=configs/trw_mnist.py \
          --config.data_dir=DIR --workdir=DIR2
Pieces: ... --minutes=30           (the same command continues)
Some:   ...:classes=(3,8)          (which are forgotten, each by itself)
Smoke:  ...:smoke --config.data_dir=DIR
Time:   24 minutes on one busy CPU core.
Expect: the paper has MNIST among its datasets; its table is not public to us.
        Ours (results/trw_mnist.json), ACC_r/ACC_f/MIA-NN gap/TV in points:
          none           96.4 / 96.3 / 4.4 / 95.4
          Retrain        96.5 / 0    / 0.6 / 4.4
          l1             96.6 / 0    / 1.3 / 7.6
          TRW            96.4 / 0    / 2.4 / 17.9

A fully connected network on 10,000 training images; 1,000 test images a class
make MIA-NN and total variation far less noisy than on digits.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.classes import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    seeds=(0, 1, 2),
    classes=(1, 3, 4, 5, 8),
    retrained=6,
    shadows=0,
    width=256,
    epochs=20,
    limit=10000,
  )
  config = settings.base('trw_mnist')
  config.dataset = 'mnist'
  config.seeds, config.retrained = a.seeds, a.retrained
  config.forget_classes, config.train_limit = a.classes, a.limit
  config.shadows = a.shadows
  config.model = dict(name='fc', width=a.width, dtype='float32')
  config.input.mean, config.input.std = (0.1307,), (0.3081,)
  config.train.update(
    epochs=a.epochs, milestones=(a.epochs // 2, 3 * a.epochs // 4)
  )
  config.evaluate.mis_points = 2000
  return settings.shrink(config) if a.smoke else config
