r"""RMIA and LiRA of unlearning methods, on MNIST.

Run:    python -m cmu_jax.main --config=configs/rmia_mnist.py \
          --config.data_dir=DIR --workdir=DIR2
Pieces: ... --minutes=30           (the same command continues)
Smoke:  ...:smoke --config.data_dir=DIR
Time:   about 30 minutes of one core of a shared machine.
Expect: no published numbers for this dataset. Ours (results/rmia_mnist.json),
        AUC of D_F (2,500 points) against 24,975 unseen ones, RMIA's ratio, 99 %
        intervals over scores, in brackets over the five networks:
          none     63.9 [62.5, 65.3] (62.3, 65.6)
          Retrain  49.9 [48.2, 51.4] (47.7, 52.1)
          AMUN     53.7 [52.3, 55.3] (52.5, 55.0)
          FT       63.8 [62.4, 65.1] (62.0, 65.5)
        With references that were unlearned themselves, offline: AMUN 51.6
        [50.1, 52.9] (50.0, 53.2), FT 61.8. LiRA finds more in AMUN, 56.6.

Five networks, each of a random half of 10,000 images, of which it forgets a
tenth: 2,500 forgotten points. 32 references on halves of the same images. The
adaptive attack compares with references that were unlearned with the audited
method themselves.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.membership import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    seeds=(0, 1, 2, 3, 4),
    references=32,
    fraction=0.1,
    methods=('amun', 'amun_alone', 'ft'),
    adaptive=True,
    width=256,
    limit=9000,
  )
  config = settings.base('rmia_mnist', 'rmia')
  config.seeds, config.references = a.seeds, a.references
  config.fraction, config.methods = a.fraction, a.methods
  config.adaptive, config.dataset = a.adaptive, 'mnist'
  config.train_limit, config.test_limit = a.limit, 1000
  config.model = dict(name='fc', width=a.width, dtype='float32')
  config.input.mean, config.input.std = (0.1307,), (0.3081,)
  config.train.update(epochs=40, milestones=(20, 30))
  if not a.smoke:
    return config
  config.train_limit = config.test_limit = 0
  return settings.shrink(config)
