r"""U-LiRA of unlearning methods, on MNIST.

Run:    python -m cmu_jax.main --config=configs/ulira_mnist.py \
          --config.data_dir=DIR --workdir=DIR2
Pieces: ... --minutes=30           (the same command continues)
Smoke:  ...:smoke --config.data_dir=DIR
Time:   25 minutes on two busy CPU cores.
Expect: no published numbers for this dataset; ours are in docs/numbers.md.
        Members are found before unlearning, and none where networks never saw
        them.

Sixteen networks, each of a random half of 10,000 images, of which it forgets
half: a point is forgotten by about four of them and unseen by eight. Each
network is held out in turn from the Gaussians that score it. RMIA and LiRA
attack the same networks and points, with the others as references: as they were
trained and, adaptive, once they have forgotten.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.membership import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    references=16,
    fraction=0.5,
    methods=('amun', 'amun_alone', 'ft'),
    width=256,
    limit=9000,
  )
  config = settings.base('ulira_mnist', 'ulira')
  config.references = a.references
  config.fraction, config.methods = a.fraction, a.methods
  config.dataset = 'mnist'
  config.train_limit, config.test_limit = a.limit, 1000
  config.model = dict(name='fc', width=a.width, dtype='float32')
  config.input.mean, config.input.std = (0.1307,), (0.3081,)
  config.train.update(epochs=40, milestones=(20, 30))
  if not a.smoke:
    return config
  config.train_limit = config.test_limit = 0
  return settings.shrink(config)
