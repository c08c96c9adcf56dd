r"""TRW and others that forget one class of CIFAR-10, ResNet-18.

Run:    python -m cmu_jax.main --config=configs/trw_cifar10.py \
          --config.data_dir=DIR --workdir=DIR2
Pieces: ... --minutes=60           (the same command continues)
Some:   ...:classes=(1,)           (which are forgotten, each by itself)
Small:  ...:width=8,epochs=20      (for a CPU)
Smoke:  ...:smoke --config.data_dir=DIR
Time:   three originals and 21 retrainings of 200 epochs: a GPU, days.
Expect: arXiv 2506.20893 (v4) says that TRW is 19 % nearer to retraining than
        the best other method by U-LiRA, and 46 % by MIA-NN; its Table 5.1 is
        not public to us, nor are its learning rates. Retrained networks take
        images of automobiles (class 1) for trucks (class 9).
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.classes import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    seeds=(0, 1, 2),
    classes=(1, 3, 4, 5, 8),
    retrained=3,
    width=64,
    epochs=200,
    dtype='float32',
  )
  config = settings.base('trw_cifar10')
  config.dataset = 'cifar10'
  config.seeds, config.retrained = a.seeds, a.retrained
  config.forget_classes = a.classes
  config.model = dict(name='resnet18', width=a.width, dtype=a.dtype)
  config.input.pad, config.input.flip = 4, True
  config.train.epochs = a.epochs
  config.train.milestones = tuple(
    edge for i in (1, 2, 3, 4) if (edge := i * a.epochs // 5)
  )
  config.evaluate.mis_points = 2000
  if not a.smoke:
    return config
  # A ResNet takes minutes to compile for all of them.
  config.methods = ('ft', 'mask', 'trw')
  config.model.width, config.train_limit, config.test_limit = 4, 400, 300
  config.train.batch_size = config.unlearn.batch_size = 16
  settings.shrink(config)
  config.train.steps = config.unlearn.steps = 4
  return config
