r"""AMUN and others on random subsets of the embedded handwritten digits.

Run:    python -m cmu_jax.main --config=configs/amun_digits.py --workdir=DIR
Quick:  ...:references=0           (no reference networks: no RMIA)
Half:   ...:fraction=0.5
Turns:  ...:requests=5             (requests one after another)
Sets:   ...:ablation               (what AMUN's adversarial set is made of)
Smoke:  ...:smoke
Time:   a few minutes on 2 CPU cores.
Expect: no published numbers for this dataset. AMUN's Tables 1 and 2 on
        CIFAR-10 (10 % forgotten, UA/RA/TA/FT AUC/gap): Retrain 94.49/100/
        94.33/50.00/0; AMUN with D_R 95.45/99.57/93.45/50.18/0.62, without
        94.28/97.47/91.67/52.24/1.94; fine-tuning 95.16/96.64/92.21/52.08/2.06.

Three networks, three forget sets each; learning rates are chosen on another
forget set. The test set has 360 images and a forget set 144: one AUC has a
standard error of 3 points.
"""

from cmu_jax import config as configs
from cmu_jax.forgetting import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    ablation=False,
    requests=0,
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
  config.attack = 'rmia' if a.references else 'confidence'
  config.tuning_seeds = (100, 101, 102)
  config.model = dict(name='fc', width=a.width, dtype='float32')
  config.input.mean, config.input.std = (0.3,), (0.35,)
  config.train.update(epochs=100, batch_size=64, milestones=(50, 75))
  config.unlearn.batch_size = 64
  config.requests = a.requests
  if a.ablation:
    settings.ablation(config)
  return settings.shrink(config) if a.smoke else config
