"""Recipes that several configs share, as their papers print them."""

from types import SimpleNamespace

from ml_collections import ConfigDict

from cmu_jax.core.config import parse_arg
from cmu_jax.studies.engine import recipes

# The arrays of CIFAR-10N and CIFAR-100N with the most wrong labels.
HUMAN_LABELS = {'cifar10': 'worse_label', 'cifar100': 'noisy_label'}


def cuts_noise_resnet(
  arg: str, dataset: str
) -> tuple[ConfigDict, SimpleNamespace]:
  """CUTS on 32x32 RGB images with label noise, ResNet-18 from scratch.

  AdamW; the corrupted network 150 epochs at 1e-3 (cosine to 5e-6), the proxy
  120 epochs at 5e-4, the clean-proxy baseline 80 epochs at 5e-5.

  Args:
    arg: the text after the config's colon.
    dataset: 'cifar10' or 'cifar100'; names the class map too.

  Returns:
    The config at full size, and the arguments: smoke, paper, noise, kind,
    labels, model, width, dtype, epochs, seeds. `labels` is for kind=human: an
    array in config.corruption.labels_file, by default the noisiest one of
    CIFAR-10N or CIFAR-100N.

  References:
    arXiv 2511.18660, released configs of the ResNets from scratch.
  """
  a = parse_arg(
    arg,
    smoke=False,
    paper=False,
    noise=0.4,
    kind='symmetric',
    labels='',
    model='resnet18',
    width=64,
    dtype='float32',
    epochs=150,
    seeds=(0, 1, 2),
  )
  config = recipes.base(f'cuts_{dataset}')
  config.dataset = dataset
  config.seeds = a.seeds
  config.noise_rate = a.noise
  # Only random kinds give a different proxy at the second draw.
  config.proxy_draws = 2 if a.kind in ('symmetric', 'transition') else 1
  config.corruption.kind = a.kind
  config.corruption.class_map = dataset
  config.corruption.labels_key = a.labels or HUMAN_LABELS[dataset]
  # A smoke run tests the program and not the numbers.
  model = 'convnet' if a.smoke else a.model
  width = 1 if a.smoke else a.width
  config.model = dict(name=model, width=width, dtype=a.dtype)
  if model == 'resnet18':
    # Images of 224 pixels, as in the paper, need the stem for ImageNet.
    config.model.stem = 'imagenet' if a.paper else 'cifar'
  config.input.pad = 4
  config.input.resize = 224 if a.paper else 0
  config.train = recipes.training(
    epochs=a.epochs,
    batch_size=256,
    learning_rate=1e-3,
    schedule='cosine',
    minimum=5e-6,
  )
  config.proxy_train = recipes.training(
    epochs=120,
    batch_size=256,
    learning_rate=5e-4,
    schedule='multistep',
    milestones=(50, 70, 90, 100, 110, 115),
    factor=0.7,
  )
  config.finetune = recipes.training(
    epochs=80,
    batch_size=256,
    learning_rate=5e-5,
    schedule='multistep',
    milestones=(50, 60, 80, 90),
    factor=0.9,
  )
  return config, a
