r"""RMIA and LiRA of unlearning methods, on CIFAR-10.

Run:    python -m cmu_jax.main --config=configs/rmia_cifar10.py \
          --config.data_dir=DIR --workdir=DIR2
Pieces: ... --minutes=60           (the same command continues)
Smoke:  ...:smoke --config.data_dir=DIR
Time:   for a GPU; not measured.
Expect: no numbers of ours yet. AMUN, arXiv 2503.00917, Table 1, reports an AUC
        of RMIA of 50.00 for Retrain and 50.72 for AMUN with SalUn, with 128
        references that were not unlearned.

Five ResNet-18 on random halves of all 60,000 images, a tenth of which each
forgets; K = 8 references on halves of the same images, which is few.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.membership import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    seeds=(0, 1, 2, 3, 4),
    references=8,
    fraction=0.1,
    methods=('amun', 'amun_salun', 'ft'),
    adaptive=True,
    width=64,
  )
  config = settings.base('rmia_cifar10', 'rmia')
  config.seeds, config.references = a.seeds, a.references
  config.fraction, config.methods = a.fraction, a.methods
  config.adaptive, config.dataset = a.adaptive, 'cifar10'
  config.model = dict(name='resnet18', width=a.width, dtype='float32')
  config.input.mean = (0.4914, 0.4822, 0.4465)
  config.input.std = (0.247, 0.2435, 0.2616)
  config.input.pad, config.input.flip = 4, True
  config.train.update(epochs=160, milestones=(40, 80, 120))
  if not a.smoke:
    return config
  config.model.width, config.train_limit, config.test_limit = 4, 200, 100
  config.train.batch_size = config.unlearn.batch_size = 16
  settings.shrink(config)
  config.train.steps = config.unlearn.steps = 4
  return config
