r"""AMUN and others on random subsets of CIFAR-10, ResNet-18, as published.

Run:    python -m cmu_jax.main --config=configs/amun_cifar10.py \
          --config.data_dir=DIR --workdir=DIR2
Half:   ...:fraction=0.5
Turns:  ...:requests=5             (requests one after another)
Sets:   ...:ablation               (what AMUN's adversarial set is made of)
Makes:  ...:variants               (FFGSM or another network's adversarial set;
        RL and SalUn with labels drawn at every access)
Bounds: ...:clip=1.0               (trained with layers of so large a norm)
RMIA:   ...:references=128         (as published; trained on half the data each)
Small:  ...:width=8,epochs=20      (for a CPU)
Smoke:  ...:smoke --config.data_dir=DIR
Time:   three originals and nine retrainings of 200 epochs, then 27 runs a
        method: days on one GPU; experiments/amun_cifar10.py takes a piece.
Expect: arXiv 2503.00917 (ICML 2025), Tables 1 and 2, in %, FT AUC by RMIA of
        128 references; UA/RA/TA/FT AUC/gap at 10 % forgotten:
          Retrain        94.49 / 100.0 / 94.33 / 50.00 / 0
          with D_R:
          FT             95.16 / 96.64 / 92.21 / 52.08 / 2.06
          RL             95.54 / 97.47 / 92.17 / 51.33 / 1.74
          GA             98.94 / 99.22 / 93.39 / 60.96 / 4.28
          BS             99.14 / 99.89 / 93.04 / 57.85 / 3.48
          l1             94.29 / 95.63 / 91.55 / 51.21 / 2.16
          SalUn          96.25 / 98.14 / 93.06 / 50.88 / 1.44
          AMUN           95.45 / 99.57 / 93.45 / 50.18 / 0.62
          AMUN + SalUn   95.02 / 99.58 / 93.29 / 50.72 / 0.68
          without D_R:
          RL             100   / 100   / 94.45 / 61.85 / 4.31
          GA             4.77  / 5.07  / 5.09  / 49.78 / 68.53
          BS             100   / 100   / 94.48 / 61.41 / 4.20
          SalUn          100   / 100   / 94.47 / 61.09 / 4.11
          AMUN           94.28 / 97.47 / 91.67 / 52.24 / 1.94
          AMUN + SalUn   94.19 / 97.71 / 91.79 / 51.93 / 1.77
          every layer clipped (clip=1.0,epochs=121), FT AUC/FR AUC/TA:
          Retrain        49.95 / 54.08 / 89.01
          AMUN           49.12 / 53.60 / 86.94  (with D_R)
          AMUN           49.55 / 54.01 / 87.55  (without)
        Doing nothing would be near 100 / 100 / 94.5 / 62 and a gap of 4.3, so
        that RL, BS and SalUn without D_R are as good as doing nothing. At 50 %
        the published gaps do not follow from the columns beside them.

RL and SalUn draw as many of D_F as of D_R in every step and keep the random
labels that were drawn first; `rl_redrawn` and `salun_redrawn`, of ...:variants,
shuffle both together and draw at every access, as the published rows do.
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
    seeds=(1, 10, 100),
    forget_seeds=(1, 10, 100),
    fraction=0.1,
    references=0,
    runs=3,
    width=64,
    epochs=200,
    dtype='float32',
  )
  config = settings.base('amun_cifar10')
  config.dataset = 'cifar10'
  config.published_indices = True
  config.seeds, config.runs = a.seeds, a.runs
  config.forget_seeds, config.tuning_seeds = a.forget_seeds, (0,)
  config.fraction, config.references = a.fraction, a.references
  # Of networks with bounded norms nearly all scores of RMIA are tied.
  relative = 'rmia_ratio' if a.clip else 'rmia'
  config.attack = relative if a.references else 'confidence'
  config.model = dict(name='resnet18', width=a.width, dtype=a.dtype)
  if a.clip:
    config.model.norm = 'none'
  config.input.pad, config.input.flip = 4, True
  config.train.epochs = a.epochs
  config.train.milestones = tuple(
    edge for i in (1, 2, 3, 4) if (edge := i * a.epochs // 5)
  )
  config.evaluate.mis_points = 2000
  config.requests, config.clip.bound = a.requests, a.clip
  if a.ablation:
    settings.ablation(config)
  if a.variants:
    settings.variants(config)
  if not a.smoke:
    return config
  # A ResNet takes minutes to compile for all of them.
  if not (a.ablation or a.variants):
    config.methods = ('ft', 'amun', 'amun_alone')
  config.model.width, config.train_limit, config.test_limit = 4, 200, 100
  config.train.batch_size = config.unlearn.batch_size = 16
  settings.shrink(config)
  config.train.steps = config.unlearn.steps = 4
  return config
