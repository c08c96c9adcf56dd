"""Somebody's network put together from its weights and a folder of pictures.

What the user did not say is read from the weights' side file, from the weights
and from the pictures; what then is still unknown is one line that asks for it.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cmu_jax import networks
from cmu_jax.core import errors, files, literals
from cmu_jax.core.types import Batch, InputStep, Model, Variables
from cmu_jax.data import inputs
from cmu_jax.data.sources import folder
from cmu_jax.data.sources.pictures import Reader
from cmu_jax.networks import clip, weights
from cmu_jax.networks.clip import preprocess
from cmu_jax.networks.shipped import classes, zero_shot
from cmu_jax.networks.shipped import pictures as pictures_lib
from cmu_jax.networks.shipped import said as side_lib
from cmu_jax.networks.weights import heads, names


class Shipped(NamedTuple):
  """A network with its weights.

  Attributes:
    model: the network.
    variables: its weights, as shipped.
    stored: the file they came from.
    layout: where in the file each of them is.
    inputs: raw pixels to network input.
    pictures: of the folder that it was fitted to.
    class_names: one name a class.
    mean: of the normalisation.
    std: likewise.
    target: as said by flag or side file, or None.
    notes: what was inferred, in words.
    side: the fields of the weights' side file, {} without one.
    read: how it wants pictures read; None for whole ones.
    beside: (folder) -> None, writes what the weights need beside them; None
      where that is nothing.
  """

  model: Model
  variables: Variables
  stored: weights.Stored
  layout: names.Layout
  inputs: InputStep
  pictures: folder.Pictures
  class_names: tuple[str, ...]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  target: Any
  notes: tuple[str, ...]
  side: dict[str, Any]
  read: Reader | None = None
  beside: Callable[[pathlib.Path], None] | None = None


def load(path: str, model: str, root: str, said: Mapping[str, Any]) -> Shipped:
  """Reads weights and the pictures that fit them.

  Args:
    path: `.safetensors`, `.npz` or an Orbax directory; FILE.json beside it may
      say what `said` does not.
    model: name of a network, with options: 'resnet18:stem=imagenet', or of a
      CLIP, whose head is made of class names: 'clip-vit-b16'.
    root: folder of pictures, in class folders or not.
    said: 'mean', 'std', 'image_size', 'class_names' and 'target' as the user
      gave them; None is inferred.

  Raises:
    UserError: what is missing, malformed or unknown, a mistake a line.
  """
  family, options = _model(model)
  if family in zero_shot.NAMES:
    return _of_words(path, family, options, root, said)
  beside = _beside(path, family)
  options = {**beside, **options}
  stored = weights.read(path)
  side = side_lib.read(path)
  known = _known(path, said, side, {})
  called = heads.known(networks.REGISTRY[family].torch_name)
  count = heads.num_classes(stored.arrays, called)
  network, variables, layout, pictures, fits = _fitting(
    path, family, options, root, known, stored, count
  )
  mean, std = tuple(known['mean']), tuple(known['std'])
  named, note = classes.class_names(known['class_names'], count, pictures.names)
  return Shipped(
    network,
    variables,
    stored,
    layout,
    inputs.make(mean, std),
    pictures,
    named,
    mean,
    std,
    known['target'],
    (*fits, *note),
    side,
    beside=functools.partial(_config_too, path) if beside else None,
  )


def _beside(path: str, family: str) -> dict[str, Any]:
  """Options that a config.json beside the weights says."""
  read, file = networks.REGISTRY[family].options, clip.beside(path)
  return {} if read is None or file is None else read(file)


def _config_too(path: str, out: pathlib.Path) -> None:
  """Puts the config.json of weights beside what becomes of them."""
  text = (pathlib.Path(path).parent / 'config.json').read_text('utf-8')
  files.write_text(out / 'config.json', text)


def _of_words(
  path: str,
  family: str,
  options: Mapping[str, Any],
  root: str,
  said: Mapping[str, Any],
) -> Shipped:
  """A CLIP with a head of class names, and the pictures as it wants them."""
  side = side_lib.read(path)
  sizes = zero_shot.sizes(path, family, options)
  usual = zip(
    ('mean', 'std'), preprocess.normalisation(sizes.kind), strict=True
  )
  known = _known(path, said, side, dict(usual))
  zero_shot.side_of(sizes, known['image_size'])
  read = zero_shot.reader(sizes)
  pictures = folder.pictures_in(pathlib.Path(root).expanduser(), None, 3, read)
  named, notes = zero_shot.named(known['class_names'], pictures.names, options)
  made = zero_shot.classifier(path, family, named, options)
  mean, std = tuple(known['mean']), tuple(known['std'])
  return Shipped(
    made.model,
    made.variables,
    made.found.stored,
    made.layout,
    inputs.make(mean, std),
    pictures,
    named,
    mean,
    std,
    known['target'],
    (*notes, *made.notes),
    side,
    read,
    lambda out: zero_shot.write_beside(made, path, out),
  )


def labelled(
  root: str, image: Any, named: tuple[str, ...], read: Reader | None = None
) -> Batch:
  """Pictures of a folder of class folders, in the size of given ones.

  Args:
    root: the folder.
    image: raw pixels, [n, h, w, c].
    named: the classes in the order of the network's outputs.
    read: how the network wants pictures read, `Shipped.read`.

  Raises:
    UserError: an unknown class folder, or pictures that do not fit.
  """
  pictures = sized(root, image, read)
  label = classes.labels(root, pictures, named)
  return Batch(jnp.asarray(pictures.image), jnp.asarray(label))


def sized(root: str, image: Any, read: Reader | None = None) -> folder.Pictures:
  """Pictures of a folder in the size and colours of given ones, [n, h, w, c].

  Raises:
    UserError: pictures of another shape.
  """
  height, width, channels = image.shape[1:]
  found = pictures_lib.read(
    root, height if height == width else None, channels, read
  )
  errors.check(
    found.image.shape[1:] == tuple(image.shape[1:]),
    f'{root}: pictures of {found.image.shape[1:3]} pixels, the others have '
    f'{(height, width)}; make them the same size',
  )
  return found


def write(one: Shipped, after: Variables, out: pathlib.Path, stem: str) -> str:
  """Writes weights in the format they came in, side file included.

  Returns:
    The file's name in `out`.
  """
  arrays = weights.put_back(after, one.stored.arrays, one.layout)
  name = f'{stem}{one.stored.suffix}'
  weights.write(out / name, one.stored._replace(arrays=arrays))
  if one.beside is not None:
    one.beside(out)
  if one.side:
    files.write_json(out / f'{name}.json', one.side)
  return name


def _fitting(
  path: str,
  family: str,
  options: Mapping[str, Any],
  root: str,
  known: Mapping[str, Any],
  stored: weights.Stored,
  count: int,
) -> tuple[Model, Variables, names.Layout, folder.Pictures, tuple[str, ...]]:
  """The network and the pictures in the colours that its weights are for.

  With one mean for all channels it is not said whether pictures are grey: the
  weights decide, after what the pictures are themselves. They decide about the
  stem, too, where it was not given. The last of the results are notes.
  """
  grey_or_rgb = (None, 1, 3) if len(known['mean']) == 1 else (3,)
  refused: list[errors.UserError] = []
  for channels in grey_or_rgb:
    pictures = pictures_lib.read(root, known['image_size'], channels)
    shape = pictures.image.shape[1:]
    for given, note in networks.variants(family, options):
      try:
        model = networks.make(family, count, shape, **given)
        template = jax.eval_shape(
          model.init, jax.random.key(0), jnp.zeros((1, *shape))
        )
        fitted = weights.fit(
          stored.arrays,
          template,
          networks.REGISTRY[family].torch_name,
          pathlib.Path(path).name,
        )
      except errors.UserError as error:
        refused.append(error)
      else:
        return model, *fitted, pictures, note
  raise refused[0]


def _known(
  path: str,
  said: Mapping[str, Any],
  side: Mapping[str, Any],
  usual: Mapping[str, Any],
) -> dict[str, Any]:
  """What flags, side file and else the network's custom say, in this order."""
  known = {
    k: side.get(k) if said.get(k) is None else said[k] for k in side_lib.FIELDS
  }
  known = {k: usual.get(k) if v is None else v for k, v in known.items()}
  errors.check(
    known['mean'] is not None and known['std'] is not None,
    'how the network normalises its pictures is not known: give --mean and '
    f'--std (of pixels between 0 and 1), or write {path}.json with '
    '{"mean": [...], "std": [...]}',
  )
  return known


def _model(text: str) -> tuple[str, dict[str, Any]]:
  """'resnet18:stem=imagenet,width=32' -> ('resnet18', {...})."""
  name, _, rest = text.partition(':')
  options: dict[str, Any] = {}
  for item in filter(None, rest.split(',')):
    key, equals, value = item.partition('=')
    errors.check(
      equals and value,
      f"--model option '{item}' needs a value: write {key}=VALUE",
    )
    options[key.strip()] = literals.free(value.strip())
  if name not in (known := (*networks.REGISTRY, *zero_shot.NAMES)):
    raise errors.unknown('--model', name, known)
  return name, options
