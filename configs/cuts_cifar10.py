r"""CUTS on CIFAR-10, ResNet-18 from scratch, symmetric label noise.

Run:    python -m cmu_jax.main --config=configs/cuts_cifar10.py:noise=0.4 \
          --config.data_dir=DIR
Paper:  ...:paper            (224x224 images and the 7x7 stem, as published)
Small:  ...:model=resnet9,width=16,epochs=20      (for a CPU)
Smoke:  ...:smoke --config.data_dir=DIR
Time:   days on 2 CPU cores at full size; not yet timed on a GPU.
Expect: arXiv 2511.18660, ResNet-18 from scratch at 224x224, one seed, in %:
          noise          10     20     40     60     80     asymmetric 40
          corrupted      83.4   77.9   60.0   38.8   16.6   74.5
          CUTS           84.3   81.2   65.8   52.7   19.5   73.8
          clean proxy    83.6   80.0   69.2   57.2   32.0   80.0
          oracle         89.7   88.9   87.4   85.0   79.5   88.7
        By the authors' own numbers CUTS is modest on networks from scratch.

The default keeps 32x32 images and a 3x3 stem: a deviation from the paper,
which resizes to 224x224; the recipe (epochs, rates, decay) is the paper's.
"""

from cmu_jax.studies.cuts import settings


def get_config(arg: str = ''):
  config, a = settings.cuts_noise_resnet(arg, 'cifar10')
  config.input.mean = (0.4914, 0.4822, 0.4465)
  config.input.std = (0.2023, 0.1994, 0.2010)
  if a.smoke:
    settings.shrink(config, proxy_fraction=0.1)
  return config


def sweep(add):
  for noise in (0.1, 0.2, 0.4, 0.6, 0.8):
    add(noise=noise)
