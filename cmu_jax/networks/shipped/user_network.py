"""Somebody's network put together from its weights and a folder of pictures.

What the user did not say is read from the weights' side file, from the weights
and from the pictures; what then is still unknown is one line that asks for it.

Backbones without a head: features of others, a head of one's own.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cmu_jax import networks
from cmu_jax.core import errors, files, literals
from cmu_jax.core.types import Batch, InputStep, Model, Variables
from cmu_jax.data import input_step
from cmu_jax.data.sources import image_folder
from cmu_jax.data.sources.pictures import PictureReader
from cmu_jax.networks import clip, weights
from cmu_jax.networks.clip import preprocess
from cmu_jax.networks.shipped import clip_network, user_data
from cmu_jax.networks.weights import matching
from cmu_jax.networks.weights.matching import Layout


class ShippedNetwork(NamedTuple):
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
  stored: weights.StoredWeights
  layout: matching.Layout
  inputs: InputStep
  pictures: image_folder.FolderPictures
  class_names: tuple[str, ...]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  target: Any
  notes: tuple[str, ...]
  side: dict[str, Any]
  reader: PictureReader | None = None
  write_companions: Callable[[pathlib.Path], None] | None = None


def load(
  path: str, model: str, root: str, overrides: Mapping[str, Any]
) -> ShippedNetwork:
  """Reads weights and the pictures that fit them.

  Args:
    path: `.safetensors`, `.npz` or an Orbax directory; FILE.json beside it may
      say what `overrides` does not.
    model: name of a network, with options: 'resnet18:stem=imagenet', or of a
      CLIP, whose head is made of class names: 'clip-vit-b16'.
    root: folder of pictures, in class folders or not.
    overrides: 'mean', 'std', 'image_size', 'class_names' and 'target' as the
      user gave them; None is inferred.

  Raises:
    UserError: what is missing, malformed or unknown, a mistake a line.
  """
  family, options = _parse_model(model)
  if family in clip_network.NAMES:
    return _load_clip(path, family, options, root, overrides)
  beside = _read_config_options(path, family)
  options = {**beside, **options}
  stored = weights.reader(path)
  side = user_data.read_side_file(path)
  known = _merge_facts(path, overrides, side, {})
  called = matching.head_names(networks.REGISTRY[family].torch_name)
  count = matching.count_classes(stored.arrays, called)
  network, variables, layout, pictures, fits = _fit_network(
    path, family, options, root, known, stored, count
  )
  mean, std = tuple(known['mean']), tuple(known['std'])
  named, note = user_data.resolve_class_names(
    known['class_names'], count, pictures.names
  )
  return ShippedNetwork(
    network,
    variables,
    stored,
    layout,
    input_step.make(mean, std),
    pictures,
    named,
    mean,
    std,
    known['target'],
    (*fits, *note),
    side,
    write_companions=functools.partial(_copy_config, path) if beside else None,
  )


def _read_config_options(path: str, family: str) -> dict[str, Any]:
  """Options that a config.json beside the weights says."""
  read, file = networks.REGISTRY[family].options, clip.find_config(path)
  return {} if read is None or file is None else read(file)


def _copy_config(path: str, out: pathlib.Path) -> None:
  """Puts the config.json of weights beside what becomes of them."""
  text = (pathlib.Path(path).parent / 'config.json').read_text('utf-8')
  files.write_text(out / 'config.json', text)


def _load_clip(
  path: str,
  family: str,
  options: Mapping[str, Any],
  root: str,
  said: Mapping[str, Any],
) -> ShippedNetwork:
  """A CLIP with a head of class names, and the pictures as it wants them."""
  side = user_data.read_side_file(path)
  sizes = clip_network.resolve_sizes(path, family, options)
  usual = zip(
    ('mean', 'std'), preprocess.normalisation(sizes.kind), strict=True
  )
  known = _merge_facts(path, said, side, dict(usual))
  clip_network.check_image_size(sizes, known['image_size'])
  read = clip_network.picture_reader(sizes)
  pictures = image_folder.read_folder(
    pathlib.Path(root).expanduser(), None, 3, read
  )
  named, notes = clip_network.choose_class_names(
    known['class_names'], pictures.names, options
  )
  made = clip_network.load_classifier(path, family, named, options)
  mean, std = tuple(known['mean']), tuple(known['std'])
  return ShippedNetwork(
    made.model,
    made.variables,
    made.clip.stored,
    made.layout,
    input_step.make(mean, std),
    pictures,
    named,
    mean,
    std,
    known['target'],
    (*notes, *made.notes),
    side,
    read,
    lambda out: clip_network.write_head_and_config(made, path, out),
  )


def read_labelled(
  root: str,
  image: Any,
  class_names: tuple[str, ...],
  reader: PictureReader | None = None,
) -> Batch:
  """Pictures of a folder of class folders, in the size of given ones.

  Args:
    root: the folder.
    image: raw pixels, [n, h, w, c].
    class_names: the classes in the order of the network's outputs.
    reader: how the network wants pictures read, `Shipped.read`.

  Raises:
    UserError: an unknown class folder, or pictures that do not fit.
  """
  pictures = read_same_shape(root, image, reader)
  label = user_data.label_pictures(root, pictures, class_names)
  return Batch(jnp.asarray(pictures.image), jnp.asarray(label))


def read_same_shape(
  root: str, image: Any, reader: PictureReader | None = None
) -> image_folder.FolderPictures:
  """Pictures of a folder in the size and colours of given ones, [n, h, w, c].

  Raises:
    UserError: pictures of another shape.
  """
  height, width, channels = image.shape[1:]
  found = user_data.read_pictures(
    root, height if height == width else None, channels, reader
  )
  errors.check(
    found.image.shape[1:] == tuple(image.shape[1:]),
    f'{root}: pictures of {found.image.shape[1:3]} pixels, the others have '
    f'{(height, width)}; make them the same size',
  )
  return found


def write(
  network: ShippedNetwork, variables: Variables, out: pathlib.Path, stem: str
) -> str:
  """Writes weights in the format they came in, side file included.

  Returns:
    The file's name in `out`.
  """
  arrays = weights.put_back(variables, network.stored.arrays, network.layout)
  name = f'{stem}{network.stored.suffix}'
  weights.write(out / name, network.stored._replace(arrays=arrays))
  if network.write_companions is not None:
    network.write_companions(out)
  if network.side:
    files.write_json(out / f'{name}.json', network.side)
  return name


def _fit_network(
  path: str,
  family: str,
  options: Mapping[str, Any],
  root: str,
  known: Mapping[str, Any],
  stored: weights.StoredWeights,
  count: int,
) -> tuple[
  Model,
  Variables,
  matching.Layout,
  image_folder.FolderPictures,
  tuple[str, ...],
]:
  """The network and the pictures in the colours that its weights are for.

  With one mean for all channels it is not said whether pictures are grey: the
  weights decide, after what the pictures are themselves. They decide about the
  stem, too, where it was not given. The last of the results are notes.
  """
  grey_or_rgb = (None, 1, 3) if len(known['mean']) == 1 else (3,)
  refused: list[errors.UserError] = []
  for channels in grey_or_rgb:
    pictures = user_data.read_pictures(root, known['image_size'], channels)
    shape = pictures.image.shape[1:]
    for given, note in networks.stem_variants(family, options):
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


def _merge_facts(
  path: str,
  said: Mapping[str, Any],
  side: Mapping[str, Any],
  usual: Mapping[str, Any],
) -> dict[str, Any]:
  """What flags, side file and else the network's custom say, in this order."""
  known = {
    k: side.get(k) if said.get(k) is None else said[k]
    for k in user_data.SIDE_FIELDS
  }
  known = {k: usual.get(k) if v is None else v for k, v in known.items()}
  errors.check(
    known['mean'] is not None and known['std'] is not None,
    'how the network normalises its pictures is not known: give --mean and '
    f'--std (of pixels between 0 and 1), or write {path}.json with '
    '{"mean": [...], "std": [...]}',
  )
  return known


def _parse_model(text: str) -> tuple[str, dict[str, Any]]:
  """'resnet18:stem=imagenet,width=32' -> ('resnet18', {...})."""
  name, _, rest = text.partition(':')
  options: dict[str, Any] = {}
  for item in filter(None, rest.split(',')):
    key, equals, value = item.partition('=')
    errors.check(
      equals and value,
      f"--model option '{item}' needs a value: write {key}=VALUE",
    )
    options[key.strip()] = literals.parse_untyped(value.strip())
  if name not in (known := (*networks.REGISTRY, *clip_network.NAMES)):
    raise errors.unknown_name('--model', name, known)
  return name, options


class Backbone(NamedTuple):
  """A network whose body was loaded.

  Attributes:
    model: body and head.
    variables: the head's are zero: every class is as likely.
    stored: the file.
    layout: where in the file each leaf of the body is.
  """

  model: Model
  variables: Variables
  stored: weights.StoredWeights
  layout: Layout


def load_backbone(
  path: os.PathLike | str,
  name: str,
  num_classes: int,
  image_shape: tuple[int, int, int],
  **options: Any,
) -> Backbone:
  """Loads all of a network but its head, which the file may lack.

  Args:
    path: of the weights; a config.json beside them says the options of families
      that have one (dinov2).
    name: of a family, see `networks.REGISTRY`.
    num_classes: k of the new head.
    image_shape: (h, w, c).
    **options: of the family; they go before config.json.

  Raises:
    UserError: an unknown family, or weights that do not fit, a mistake a line.
  """
  if name not in networks.REGISTRY:
    raise errors.unknown_name('model', name, networks.REGISTRY)
  family, beside = networks.REGISTRY[name], clip.find_config(path)
  if family.options is not None and beside is not None:
    options = {**family.options(beside), **options}
  model = networks.make(name, num_classes, image_shape, **options)
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  stored = weights.reader(path)
  known = matching.head_names(family.torch_name)
  kept = {
    n: x for n, x in stored.arrays.items() if not matching.is_head(n, known)
  }
  params = {k: v for k, v in shapes.params.items() if k != 'head'}
  found, layout = weights.fit(
    kept,
    Variables(params, shapes.batch_stats),
    family.torch_name,
    pathlib.Path(path).name,
  )
  head = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.params)
  whole = {**found.params, 'head': head['head']}
  return Backbone(model, Variables(whole, found.batch_stats), stored, layout)
