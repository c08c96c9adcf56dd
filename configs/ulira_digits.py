r"""U-LiRA of unlearning methods, on the embedded handwritten digits.

Run:    python -m cmu_jax.main --config=configs/ulira_digits.py --workdir=DIR
Pieces: ... --minutes=5            (the same command continues)
Smoke:  ...:smoke
Time:   about 5 minutes on one CPU core.
Expect: no published numbers for this dataset. Ours (results/ulira_digits.json),
        AUC, 99 % intervals:
          none     62.8 [60.6, 65.2]    Retrain  51.0 [48.3, 53.0]
          AMUN     60.0 [57.7, 62.1]    FT       62.5 [60.5, 64.6]
        Most of what tells members is still there after AMUN, for an attacker
        whose references were unlearned with AMUN too.

Sixteen networks, each of a random half of all images, of which it forgets
half: a point is forgotten by four of them and unseen by eight. Each network is
held out in turn from the Gaussians that score it. RMIA and LiRA attack the same
networks and points, with the others as references: as they were trained and,
adaptive, once they have forgotten. The intervals above are of single scores;
runs made since then draw whole networks and points.
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
  )
  config = settings.base('ulira_digits', 'ulira')
  config.references = a.references
  config.fraction, config.methods = a.fraction, a.methods
  config.model = dict(name='fc', width=a.width, dtype='float32')
  config.input.mean, config.input.std = (0.3,), (0.35,)
  config.train.update(epochs=100, batch_size=64, milestones=(50, 75))
  config.unlearn.batch_size = 64
  return settings.shrink(config) if a.smoke else config
