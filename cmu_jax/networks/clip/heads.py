"""Zero-shot heads: a linear classifier made of sentences, and its file.

Each class is the mean of its unit-length sentences, made unit length again and
multiplied by exp(logit_scale), as in arXiv 2103.00020, section 3.1.4. Whoever
has the small .npz needs neither text tower nor tokenizer.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cmu_jax.core import errors, files, tree
from cmu_jax.data.sources import npz
from cmu_jax.networks.clip import loading, templates, tokenizer, towers

_CHUNK = 64
_REMEDY = 'make one with cmu_jax.networks.clip.heads.save'


class Head(NamedTuple):
  """A frozen classifier on normalised image embeddings.

  Attributes:
    kernel: scaled unit columns, one a class, [e, k].
    class_names: in the order of the columns.
    templates: the sentences it was made of.
  """

  kernel: Float[Array, 'e k']
  class_names: tuple[str, ...]
  templates: tuple[str, ...]


def make(
  found: loading.Loaded,
  class_names: Sequence[str],
  sentences: Sequence[str] = templates.IMAGENET,
) -> Head:
  """The head of a CLIP for some classes.

  Args:
    found: a CLIP with a text tower.
    class_names: one a class; '_' stands for a space.
    sentences: each with one '{}' for the name.

  Raises:
    UserError: no text tower, no '{}', or a tower of another vocabulary.
  """
  errors.check(
    found.has_text,
    'these weights have no text tower, so that class names cannot be made a '
    'head; use the whole CLIP, or a head that was saved before (head=FILE.npz)',
  )
  for sentence in sentences:
    errors.check(
      sentence.count('{}') == 1,
      f"the sentence '{sentence}' must have {{}} once, for the class name",
    )
  errors.check(
    found.sizes.kind == 'clip' and found.sizes.vocabulary > tokenizer.END,
    f'these weights ({found.sizes.kind}, {found.sizes.vocabulary} tokens) have '
    f"another tokenizer than CLIP's {tokenizer.END + 1}: make the head with "
    'theirs (cmu_jax.networks.clip.heads.of_tokens), save it and give '
    'head=FILE.npz',
  )
  named = templates.words(class_names)
  texts = [s.replace('{}', name) for name in named for s in sentences]
  rows = embedded(found, texts).reshape(len(named), len(sentences), -1)
  return Head(_columns(found, rows), tuple(class_names), tuple(sentences))


def of_tokens(
  found: loading.Loaded,
  ids: Int[np.ndarray, 'k s t'],
  class_names: Sequence[str],
  sentences: Sequence[str],
) -> Head:
  """The head of weights that have a tokenizer of their own, such as SigLIP's.

  Args:
    found: a CLIP or SigLIP with a text tower.
    ids: of every class in every sentence, as that tokenizer makes and fills
      them up.
    class_names: k of them.
    sentences: s of them.

  Raises:
    UserError: no text tower, or ids that it does not have.
  """
  errors.check(found.has_text, 'these weights have no text tower')
  sizes, shape = found.sizes, (len(class_names), len(sentences))
  errors.check(
    ids.shape[:2] == shape and ids.shape[2] <= sizes.context,
    f'ids have shape {ids.shape}; give [{shape[0]}, {shape[1]}, up to '
    f'{sizes.context}]: classes, sentences, tokens',
  )
  errors.check(
    ids.min() >= 0 and ids.max() < sizes.vocabulary,
    f'ids go from {ids.min()} to {ids.max()}; these weights know 0 to '
    f'{sizes.vocabulary - 1}: take their own tokenizer',
  )
  run = jax.jit(loading.bound(sizes).text)
  rows = jnp.stack([run(found.variables, jnp.asarray(one)) for one in ids])
  return Head(_columns(found, rows), tuple(class_names), tuple(sentences))


def _columns(
  found: loading.Loaded, rows: Float[Array, 'k s e']
) -> Float[Array, 'e k']:
  scale = jnp.exp(found.variables.params['logit_scale']).reshape(())
  return scale * towers.unit(towers.unit(rows).mean(1)).T


def kept(
  folder: os.PathLike | str,
  found: loading.Loaded,
  class_names: Sequence[str],
  sentences: Sequence[str] = templates.IMAGENET,
) -> Head:
  """The head that `make` gives, from a file in `folder` if it is there.

  The file's name is a digest of the text tower and of all sentences.
  """
  digest = hashlib.sha256(
    json.dumps([list(class_names), list(sentences)]).encode()
  )
  for path, leaf in tree.flat(found.variables.params).items():
    if path[0] not in ('vision_model', 'visual_projection'):
      digest.update(np.ascontiguousarray(leaf).data)
  file = pathlib.Path(folder) / f'{digest.hexdigest()[:24]}.npz'
  if file.is_file():
    return read(file)
  head = make(found, class_names, sentences)
  save(file, head)
  return head


def embedded(
  found: loading.Loaded, texts: Sequence[str]
) -> Float[Array, 'n e']:
  """Embeddings of texts, not normalised."""
  ids = tokenizer.encode(texts, found.sizes.context)
  # The causal mask makes what follows the end token irrelevant: short rows
  # cost a fraction of 77 tokens.
  ids = ids[:, : int((ids != 0).sum(1).max())]
  missing = -len(ids) % min(_CHUNK, len(ids))
  ids = np.pad(ids, ((0, missing), (0, 0)), 'edge')
  chunks = ids.reshape(-1, min(_CHUNK, len(texts)), ids.shape[1])
  run = jax.jit(loading.bound(found.sizes).text)
  parts = [run(found.variables, jnp.asarray(chunk)) for chunk in chunks]
  return jnp.concatenate(parts)[: len(texts)]


def save(path: os.PathLike | str, head: Head) -> None:
  """Writes a head as a small .npz of plain arrays."""
  files.write(
    path,
    lambda file: np.savez(
      file,
      kernel=np.asarray(head.kernel, np.float32),
      class_names=np.array(head.class_names),
      templates=np.array(head.templates),
    ),
  )


def read(path: os.PathLike | str) -> Head:
  """Reads what `save` wrote.

  Raises:
    UserError: another file.
  """
  path = pathlib.Path(path).expanduser()
  errors.check(path.is_file(), f'the head {path} does not exist')
  arrays = npz.arrays(path, _REMEDY)
  errors.check(
    {'kernel', 'class_names', 'templates'} <= set(arrays)
    and arrays['kernel'].ndim == 2
    and arrays['kernel'].shape[1] == len(arrays['class_names']),
    f'{path} is no head of ours; {_REMEDY}',
  )
  return Head(
    jnp.asarray(arrays['kernel'], jnp.float32),
    tuple(map(str, arrays['class_names'])),
    tuple(map(str, arrays['templates'])),
  )
