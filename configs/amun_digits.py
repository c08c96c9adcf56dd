r"""AMUN and others on random subsets of the embedded handwritten digits.

Run:    python -m cmu_jax.main --config=configs/amun_digits.py --workdir=DIR
Quick:  ...:references=0           (no reference networks: no RMIA)
Half:   ...:fraction=0.5
Turns:  ...:requests=5             (requests one after another)
Sets:   ...:ablation               (what AMUN's adversarial set is made of)
Makes:  ...:variants               (FFGSM or another network's adversarial set;
        RL and SalUn with labels drawn at every access)
Bounds: ...:clip=1.0               (trained with layers of so large a norm)
Smoke:  ...:smoke
Time:   about 3 minutes on 2 CPU cores.
Expect: no published numbers for this dataset. Ours (results/amun_digits.json),
        UA/RA/TA/FT AUC by RMIA of 16 references/mean of gaps:
          none           100   / 100  / 97.65 / 61.41 / 5.43
          Retrain        95.00 / 100  / 97.25 / 45.08 / 0.68
          AMUN + SalUn   100   / 100  / 96.59 / 44.68 / 1.89  (with D_R)
          AMUN           100   / 99.9 / 96.15 / 41.74 / 2.37  (without)
        AMUN, arXiv 2503.00917, Tables 1 and 2, on CIFAR-10:
          Retrain        94.49 / 100  / 94.33 / 50.00 / 0
          AMUN + SalUn   95.02 / 99.58 / 93.29 / 50.72 / 0.68 (with D_R)
          AMUN           94.28 / 97.47 / 91.67 / 52.24 / 1.94 (without)

Three networks, which learn 600 images by heart, and three forget sets each;
learning rates are chosen on three other forget sets. With 355 test images and
60 to be forgotten one AUC has a standard error of 4 points, and nothing that
Retrain has is near 50 by necessity.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.subsets import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    ablation=False,
    variants=False,
    requests=0,
    clip=0.0,
    seeds=(0, 1, 2),
    fraction=0.1,
    references=16,
    runs=1,
    forget_seeds=(0, 1, 2),
    limit=600,
    width=256,
  )
  config = settings.base('amun_digits')
  config.seeds, config.runs = a.seeds, a.runs
  config.forget_seeds, config.train_limit = a.forget_seeds, a.limit
  config.fraction, config.references = a.fraction, a.references
  # Of networks with bounded norms nearly all scores of RMIA are tied.
  relative = 'rmia_ratio' if a.clip else 'rmia'
  config.attack = relative if a.references else 'confidence'
  config.tuning_seeds = (100, 101, 102)
  config.model = dict(name='fc', width=a.width, dtype='float32')
  config.input.mean, config.input.std = (0.3,), (0.35,)
  config.train.update(epochs=100, batch_size=64, milestones=(50, 75))
  config.unlearn.batch_size = 64
  config.requests, config.clip.bound = a.requests, a.clip
  if a.ablation:
    settings.ablation(config)
  if a.variants:
    settings.variants(config)
  return settings.shrink(config) if a.smoke else config
