r"""CUTS on CIFAR-100, ResNet-18 from scratch, symmetric label noise.

Run:    python -m cmu_jax.main --config=configs/cuts_cifar100.py:noise=0.4 \
          --config.data_dir=DIR
Paper:  ...:paper            (224x224 images and the 7x7 stem, as published)
Small:  ...:model=resnet9,width=16,epochs=20      (for a CPU)
Smoke:  ...:smoke --config.data_dir=DIR
Subset: a part with 80 images a class needs --config.proxy_fraction=0.1.
Time:   days on 2 CPU cores at full size; not yet timed on a GPU.
Expect: arXiv 2511.18660, ResNet-18 from scratch at 224x224, one seed, in %:
          noise          10     20     40     60     80     asymmetric 40
          corrupted      61.0   52.6   38.3   20.5    6.7   41.5
          CUTS           60.2   54.4   42.1   23.3    7.9   44.5
          clean proxy    60.9   53.5   41.8   26.1   11.4   45.8
          oracle         68.1   66.9   63.9   57.5   45.4   63.9
        By the authors' own numbers CUTS is modest on networks from scratch.

The default keeps 32x32 images and a 3x3 stem: a deviation from the paper,
which resizes to 224x224; the recipe (epochs, rates, decay) is the paper's.
"""

from cmu_jax.studies.cuts import settings


def get_config(arg: str = ''):
  config, a = settings.cuts_noise_resnet(arg, 'cifar100')
  config.input.mean = (0.5071, 0.4865, 0.4409)
  config.input.std = (0.2673, 0.2564, 0.2762)
  config.select.class_share = 0.95
  if a.smoke:
    settings.shrink(
      config, proxy_fraction=0.1, train_limit=4000, test_limit=1000
    )
  return config


def sweep(add):
  for noise in (0.1, 0.2, 0.4, 0.6, 0.8):
    add(noise=noise)
