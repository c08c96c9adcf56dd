"""Small datasets on the disk: prepared TFDS sets, image folders, archives."""

import pathlib
from collections.abc import Iterator

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

tfds.disable_progress_bar()


def pictures(count: int, shape=(6, 5, 3), seed: int = 0) -> np.ndarray:
  draw = np.random.default_rng(seed)
  return draw.integers(0, 256, (count, *shape), dtype=np.uint8)


def write_set(
  root: pathlib.Path,
  features: dict,
  splits: dict[str, list[dict]],
  *,
  name: str = 'tiny',
  version: str = '1.2.3',
  file_format: str = 'array_record',
  register: bool = False,
) -> type:
  """Prepares a TFDS set of the given rows in root/name/version.

  Returns:
    The builder class; with `register`, TFDS can also make it by name.
  """

  def info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      disable_shuffling=True,
      features=tfds.features.FeaturesDict(features),
      supervised_keys=('image', 'label') if 'label' in features else None,
    )

  def generate(rows: list[dict]) -> Iterator[tuple[int, dict]]:
    yield from enumerate(rows)

  body = {
    'VERSION': tfds.core.Version(version),
    'name': name,
    # Keeps TFDS from looking for resource files beside the class.
    'code_path': None,
    '_info': info,
    '_split_generators': lambda self, _: {
      split: generate(rows) for split, rows in splits.items()
    },
    '_generate_examples': lambda self: iter(()),
  }
  bases = (tfds.core.GeneratorBasedBuilder,)
  if register:
    return type(name, bases, body)
  with tfds.core.registered.skip_registration():
    made = type(name, bases, body)
  made(data_dir=root, file_format=file_format).download_and_prepare()
  return made


def rows(count: int, classes: int = 2, seed: int = 0, shape=(6, 5, 3)):
  """Images and labels as TFDS rows with an `id` that runs backwards."""
  return [
    {'id': f'{count - i:03d}', 'image': image, 'label': i % classes}
    for i, image in enumerate(pictures(count, shape, seed))
  ]


def tensor_features(classes=('cat', 'dog'), shape=(6, 5, 3)) -> dict:
  return {
    'id': tfds.features.Text(),
    'image': tfds.features.Tensor(shape=shape, dtype=np.uint8),
    'label': tfds.features.ClassLabel(names=list(classes)),
  }


def write_folder(
  root: pathlib.Path,
  count: int = 3,
  classes=('b', 'a'),
  splits=('train', 'test'),
) -> dict[str, np.ndarray]:
  """root/<split>/<class>/<i>.png; returns the pixels by relative path."""
  written = {}
  for s, split in enumerate(splits):
    for c, name in enumerate(classes):
      (root / split / name).mkdir(parents=True)
      for i, image in enumerate(pictures(count, seed=10 * s + c)):
        path = f'{split}/{name}/{i}.png'
        PIL.Image.fromarray(image).save(root / path)
        written[path] = image
  return written
