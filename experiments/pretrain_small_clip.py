"""A small CLIP trained on class names as captions, in resumable pieces.

Writes model.safetensors and config.json, which `--model=clip` of repair and
unlearn and `config.model.weights` of configs/cuts_clip_cifar10.py read, and a
small JSON with its zero-shot accuracy on test images. It uses an accelerator
if JAX finds one; the same command, with the same --work, continues.

  python experiments/pretrain_small_clip.py --data_dir DIR --dataset cifar100 \
    --width 256 --depth 6 --patch 4 --steps 20000 --minutes 9 --work /tmp/clip
"""

import argparse
import pathlib
import sys
import time
from typing import Any

import cell_runs
import jax.numpy as jnp

from cmu_jax.commands import shell, workdir
from cmu_jax.core import config as configs
from cmu_jax.core import files, provenance, rng, store
from cmu_jax.core.types import Batch
from cmu_jax.data import input_step, sources
from cmu_jax.networks import clip, weights
from cmu_jax.networks.clip import architecture, prompts, zero_shot
from cmu_jax.training import small_clip

_SECONDS = 60.0


class TimeIsUp(Exception):
  """Raised after a checkpoint, in the middle of the training."""


def add_captions(dataset: Any, batch: Batch) -> small_clip.CaptionedImages:
  """Returns images in three channels, with a sentence for each class."""
  image = batch.image
  if image.shape[-1] == 1:
    image = jnp.repeat(image, 3, axis=-1)
  sentences = prompts.for_dataset(dataset.name)[:1]
  return small_clip.CaptionedImages(
    batch._replace(image=image), dataset.class_names, sentences
  )


def checkpoint(folder: pathlib.Path, flags: Any) -> Any:
  """Returns a checkpoint that ends the training after the deadline."""
  deadline = time.monotonic() + 60 * flags.minutes
  # The settings that the training depends on name its file.
  passing = ('minutes', 'out', 'work')
  name = configs.fingerprint(
    {k: v for k, v in vars(flags).items() if k not in passing}
  )
  seconds = min(_SECONDS, 30 * flags.minutes)
  stored = store.npz_checkpoint(folder, name, seconds)

  def save(state: Any, step: int) -> None:
    stored.save(state, step)
    # The next save would come too late.
    if step < flags.steps and time.monotonic() + seconds > deadline:
      raise TimeIsUp

  return stored._replace(save=save)


def parse_flags() -> argparse.Namespace:
  """Reads the command line."""
  parser = cell_runs.parser(__doc__)
  parser.add_argument('--data_dir')
  parser.add_argument('--dataset', default='cifar10')
  parser.add_argument('--width', type=int, default=128)
  parser.add_argument('--depth', type=int, default=4)
  parser.add_argument('--patch', type=int, default=4)
  parser.add_argument('--steps', type=int, default=5000)
  parser.add_argument('--learning_rate', type=float, default=1e-3)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--minutes', type=float, default=9.0)
  parser.add_argument('--work', default='runs/pretrain_small_clip')
  parser.add_argument('--out', default='')
  return parser.parse_args()


def write(
  folder: pathlib.Path,
  trained: clip.LoadedClip,
  flags: Any,
  accuracy: float,
  seconds: float,
) -> None:
  """Writes weights, config.json and the record."""
  weights.write(folder / 'model.safetensors', trained.stored)
  files.write_json(
    folder / 'config.json', architecture.to_config(trained.sizes)
  )
  settings = {k: v for k, v in vars(flags).items() if k != 'data_dir'}
  record = {
    'schema': 1,
    'provenance': provenance.describe_run(settings),
    'settings': settings,
    'test_accuracy': accuracy,
    'seconds_here': round(seconds, 1),
  }
  out = pathlib.Path(flags.out or flags.work)
  files.write_json(out / f'pretrain_small_clip_{flags.dataset}.json', record)


def main() -> None:
  """Continues the training; writes the CLIP at its end."""
  flags = parse_flags()
  folder = pathlib.Path(flags.work)
  dataset = sources.load(flags.dataset, data_dir=flags.data_dir)
  side = int(dataset.train.image.shape[1])
  began = time.monotonic()
  with workdir.lock(folder, '--work'):
    try:
      trained = small_clip.train_small_clip(
        rng.fold_in(flags.seed, 'small_clip'),
        small_clip.small_sizes(side, flags.patch, flags.width, flags.depth),
        add_captions(dataset, dataset.train),
        input_step.make(zero_shot.MEAN, zero_shot.STD, pad=2, flip=True),
        steps=flags.steps,
        learning_rate=flags.learning_rate,
        checkpoint=checkpoint(folder, flags),
      )
    except TimeIsUp:
      print('the time is up: the same command continues', file=sys.stderr)
      return
    accuracy = small_clip.check_accuracy(
      trained,
      add_captions(dataset, dataset.test),
      input_step.make(zero_shot.MEAN, zero_shot.STD),
    )
    write(folder, trained, flags, accuracy, time.monotonic() - began)
  print(f'zero-shot accuracy {accuracy:.1%}: {folder / "model.safetensors"}')


if __name__ == '__main__':
  shell.run_script(main)
