r"""RMIA and LiRA of unlearning methods, on the embedded handwritten digits.

Run:    python -m cmu_jax.main --config=configs/rmia_digits.py --workdir=DIR
Pieces: ... --minutes=5            (the same command continues)
Smoke:  ...:smoke
Time:   about a minute of one CPU core.
Expect: no published numbers for this dataset. Ours (results/rmia_digits.json),
        AUC of D_F against unseen points, 99 % intervals of RMIA's ratio:
          none     61.2 [57.2, 64.6]    Retrain  50.8 [46.8, 55.7]
          AMUN     51.0 [46.9, 55.2]    FT       61.0 [57.1, 64.5]
        The adaptive attack, offline as it has to be, finds no more in AMUN
        (49.4 [44.8, 53.9]); ulira_digits.py does.

Ten networks, each of a random half of all images, of which it forgets a tenth;
32 references on halves of the same images. The adaptive attack compares with
references that were unlearned with the audited method themselves.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.membership import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    seeds=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    references=32,
    fraction=0.1,
    methods=('amun', 'amun_alone', 'ft'),
    adaptive=True,
    width=256,
  )
  config = settings.base('rmia_digits', 'rmia')
  config.seeds, config.references = a.seeds, a.references
  config.fraction, config.methods = a.fraction, a.methods
  config.adaptive = a.adaptive
  config.model = dict(name='fc', width=a.width, dtype='float32')
  config.input.mean, config.input.std = (0.3,), (0.35,)
  config.train.update(epochs=100, batch_size=64, milestones=(50, 75))
  config.unlearn.batch_size = 64
  return settings.shrink(config) if a.smoke else config
