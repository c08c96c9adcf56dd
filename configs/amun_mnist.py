r"""AMUN and others on random subsets of MNIST.

Run:    python -m cmu_jax.main --config=configs/amun_mnist.py \
          --config.data_dir=DIR --workdir=DIR2
Pieces: ... --minutes=30           (the same command continues)
Half:   ...:fraction=0.5
Turns:  ...:requests=5             (requests one after another)
Sets:   ...:ablation               (what AMUN's adversarial set is made of)
Makes:  ...:variants               (FFGSM or another network's adversarial set;
        RL and SalUn with labels drawn at every access)
Bounds: ...:clip=1.0               (trained with layers of so large a norm)
Smoke:  ...:smoke --config.data_dir=DIR
Time:   about an hour and a quarter on one busy CPU core.
Expect: no published numbers for this dataset. Ours (results/amun_mnist.json),
        UA/RA/TA/FT AUC by RMIA of 16 references/mean of gaps:
          none           100   / 100  / 96.67 / 61.82 / 3.52
          Retrain        96.84 / 100  / 96.47 / 51.08 / 0.29
          AMUN           100   / 100  / 96.20 / 51.72 / 1.07  (with D_R)
          AMUN           100   / 100  / 95.79 / 50.93 / 1.10  (without)

A fully connected network on 10,000 training images, which it learns by heart;
on all of MNIST next to nothing is left to be forgotten.
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
    forget_seeds=(0, 1, 2),
    fraction=0.1,
    references=16,
    runs=1,
    width=256,
    limit=10000,
  )
  config = settings.base('amun_mnist')
  config.dataset = 'mnist'
  config.seeds, config.runs = a.seeds, a.runs
  config.forget_seeds, config.train_limit = a.forget_seeds, a.limit
  config.fraction, config.references = a.fraction, a.references
  # Of networks with bounded norms nearly all scores of RMIA are tied.
  relative = 'rmia_ratio' if a.clip else 'rmia'
  config.attack = relative if a.references else 'confidence'
  config.model = dict(name='fc', width=a.width, dtype='float32')
  config.input.mean, config.input.std = (0.1307,), (0.3081,)
  config.train.update(epochs=40, milestones=(20, 30))
  config.evaluate.mis_points = 2000
  config.requests, config.clip.bound = a.requests, a.clip
  if a.ablation:
    settings.ablation(config)
  if a.variants:
    settings.variants(config)
  return settings.shrink(config) if a.smoke else config
