"""Folders of pictures: every format is read, and files left out are named."""

import os
import shutil

import numpy as np
import PIL.Image
import pytest
import repair_case
import unlearn_case

from cmu_jax import __main__ as program
from cmu_jax.core import errors, files
from cmu_jax.data import sources
from cmu_jax.data.sources import image_folder, picture_files

# Suffixes of formats that keep pixels, with a picture of three channels or one.
LOSSLESS = {
  **dict.fromkeys(('.png', '.PNG', '.apng', '.bmp', '.DIB', '.ppm'), 'RGB'),
  **dict.fromkeys(('.pnm', '.tif', '.TIFF', '.tga', '.sgi', '.pcx'), 'RGB'),
  **dict.fromkeys(('.pgm', '.qoi'), 'L'),
}
LOSSY = ('.jpg', '.JPEG', '.jpe', '.jfif', '.webp', '.avif', '.gif', '.jp2')


def write(path, mode='L', size=(7, 5), value=90):
  path.parent.mkdir(parents=True, exist_ok=True)
  colour = value if mode in ('L', 'F', 'I') else (value,) * 3
  if path.suffix == '.qoi':
    mode, colour = 'RGB', (value,) * 3
  PIL.Image.new(mode, size, colour).save(path)


def read(root, **options):
  """The pictures, and the remarks on them."""
  with errors.collect_remarks() as remarks:
    found = image_folder.read_folder(
      root, options.get('size'), options.get('channels')
    )
  return found, remarks


@pytest.mark.parametrize('suffix', [*LOSSLESS, *LOSSY])
def test_every_format_is_read(suffix, tmp_path):
  write(tmp_path / 'cat' / f'a{suffix}', LOSSLESS.get(suffix, 'RGB'))
  found, remarks = read(tmp_path, channels=3)
  assert found.image.shape == (1, 5, 7, 3)
  spread = 0 if suffix in LOSSLESS else 6
  assert abs(found.image.astype(int) - 90).max() <= spread
  assert remarks == []


def test_pictures_of_subfolders_belong_to_the_folder_above(tmp_path):
  for name in ('cat/2.png', 'cat/2019/may/1.webp', 'dog/x.bmp', 'dog/y/z.PNG'):
    write(tmp_path / name)
  found, remarks = read(tmp_path)
  assert found.names == ('cat', 'dog')
  assert found.group.tolist() == [0, 0, 1, 1]
  assert len(remarks) == 1 and remarks[0].startswith('2 pictures in')
  assert 'in subfolders of cat and other folders' in remarks[0]


@pytest.mark.parametrize(
  'names, text',
  [
    (('a/1.png', 'a/x/2.png', 'b/3.bmp'), '3 of 3 .* subfolders a (2), b (1).'),
    (('0.png', 'deep/er/1.gif'), '1 of 2 .* subfolders deep (1).'),
    (('0.png', '1.ppm'), ''),
  ],
)
def test_a_set_without_classes_is_read_as_one(names, text, tmp_path):
  for i, name in enumerate(names):
    write(tmp_path / name, value=10 * i)
  with errors.collect_remarks() as remarks:
    pictures = image_folder.read_flat_folder(tmp_path, None, 1)
  assert pictures.names == ('',) and not pictures.group.any()
  listed = image_folder.list_files(tmp_path, has_classes=False)
  assert len(listed) == len(pictures.image) == len(names)
  assert sorted(listed) == sorted(tmp_path / name for name in names)
  assert len(remarks) == bool(text)
  for part in filter(None, text.split(' .* ')):
    assert part in remarks[0] and 'are no classes' in remarks[0]


@pytest.mark.parametrize('folders', [('3',), ('mon', 'tue'), ('0', '9')])
def test_folders_of_pictures_with_a_trigger_are_no_classes(folders, tmp_path):
  """Wherever the pictures lie, the repair is the same."""
  repair_case.make(tmp_path, 'poison', steps=200)
  flat, deep = tmp_path / 'bad', tmp_path / 'deep'
  for i, path in enumerate(sorted(flat.iterdir())):
    place = deep / folders[i % len(folders)]
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, place / path.name)
  both = []
  for root, out in ((flat, 'one'), (deep, 'other')):
    changes = {'proxy': root, 'out': tmp_path / out, 'steps': 2}
    flags = repair_case.flags(tmp_path, **changes)
    assert program.main(['repair', *flags]) == 0
    both.append(files.read_json(tmp_path / out / 'results.json'))
  assert both[0]['samples'] == both[1]['samples']
  assert both[0]['settings']['target'] == both[1]['settings']['target'] == 0
  said = ' '.join(both[1]['remarks'])
  assert f'in its subfolders {folders[0]} (' in said and 'no classes' in said
  hint = "'3', which is not taken for the target" in ' '.join(both[1]['notes'])
  assert hint == (folders == ('3',))


def test_files_left_out_are_named_by_folder_and_reason(tmp_path):
  for name in ('cat/1.png', 'dog/1.png', 'dog/2.png'):
    write(tmp_path / name)
  write(tmp_path / 'cat' / '.hidden.png')
  write(tmp_path / 'dog' / '.trash' / '1.png')
  for name in ('dog/a.heic', 'dog/b.heic', 'dog/raw', 'cat/n.txt', 'all.csv'):
    (tmp_path / name).write_bytes(b'x')
  # Left by file managers; nobody misses it.
  (tmp_path / 'cat' / '.DS_Store').write_bytes(b'x')
  os.symlink(tmp_path / 'nowhere.png', tmp_path / 'cat' / 'link.png')
  found, remarks = read(tmp_path)
  assert found.group.tolist() == [0, 1, 1]
  assert remarks == [
    f'Left out of {tmp_path}: no pictures (1 .csv).',
    f'Left out of {tmp_path / "cat"}: no pictures (1 .txt, 1 broken link, '
    '1 hidden picture).',
    f'Left out of {tmp_path / "dog"}: no pictures (2 .heic, 1 hidden folder, '
    '1 no suffix).',
  ]


def test_a_thousand_folders_give_few_lines(tmp_path):
  for number in range(30):
    write(tmp_path / f'c{number}' / '1.png')
    (tmp_path / f'c{number}' / 'note.md').write_bytes(b'x')
  _, remarks = read(tmp_path)
  assert len(remarks) == 7
  assert '24 further folders' in remarks[-1] and '24 .md' in remarks[-1]


def test_a_link_to_a_folder_above_ends(tmp_path):
  write(tmp_path / 'cat' / '1.png')
  os.symlink(tmp_path / 'cat', tmp_path / 'cat' / 'round')
  found, _ = read(tmp_path)
  assert len(found.image) == 1


def test_further_frames_are_said_not_to_be_read(tmp_path):
  frames = [PIL.Image.new('L', (4, 4), value) for value in (10, 200)]
  for name in ('a.gif', 'b.tif'):
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
  write(tmp_path / 'c.gif', size=(4, 4), value=10)
  found, remarks = read(tmp_path, channels=1)
  assert (found.image == 10).all()
  assert len(remarks) == 1 and remarks[0].startswith('2 pictures in')


@pytest.mark.parametrize('mode, value', [('F', 0.5), ('I', 70_000)])
def test_pixels_of_an_unknown_white_are_refused(mode, value, tmp_path):
  PIL.Image.fromarray(
    np.full((4, 4), value, {'F': 'f4', 'I': 'i4'}[mode])
  ).save(tmp_path / 'deep.tif')
  with pytest.raises(errors.UserError, match=r'deep\.tif .*16 bits'):
    read(tmp_path)


def test_a_folder_of_other_files_says_which(tmp_path):
  (tmp_path / 'cat').mkdir()
  (tmp_path / 'cat' / 'a.heic').write_bytes(b'x')
  with pytest.raises(errors.UserError, match=r'has no picture .*only 1 \.heic'):
    read(tmp_path)


def test_a_dataset_of_folders_reads_and_says_the_same(tmp_path, capsys):
  root = tmp_path / 'set'
  for split in ('train', 'test', 'val'):
    for name in ('a/1.ppm', 'a/deep/2.JPG', 'b/1.tif'):
      write(root / split / name)
  (root / 'train' / 'b' / 'list.txt').write_bytes(b'x')
  found = sources.load(f'folder:{root}', cache_dir=tmp_path / 'cache')
  assert found.train.label.tolist() == [0, 0, 1]
  out = capsys.readouterr().out
  assert f'Left out of {root / "train" / "b"}: no pictures (1 .txt)' in out
  assert 'are read, not val.' in out and out.count('in subfolders of') == 2
  write(root / 'train' / 'loose.webp')
  with pytest.raises(errors.UserError, match='holds 1 picture beside'):
    sources.load(f'folder:{root}', cache_dir=tmp_path / 'cache')


def test_an_unlearning_forgets_all_and_reports_the_rest(tmp_path, capsys):
  unlearn_case.make(tmp_path, forget=12, keep=12, steps=5)
  forget = tmp_path / 'forget'
  folder = next(forget.iterdir())
  write(folder / 'week' / 'x.webp', size=(8, 8))
  (folder / 'x.mp4').write_bytes(b'x')
  flags = {
    **{'weights': tmp_path / 'w.npz', 'model': 'fc:width=64', 'epochs': 1},
    **{'forget': forget, 'out': tmp_path / 'out', 'method': 'gradient_ascent'},
  }
  assert (
    program.main(['unlearn', *(f'--{k}={v}' for k, v in flags.items())]) == 0
  )
  out = capsys.readouterr().out
  results = files.read_json(tmp_path / 'out' / 'results.json')
  assert results['pictures']['forget'] == 13
  page = (tmp_path / 'out' / 'report.html').read_text('utf-8')
  for line in (
    f'Left out of {folder}: no pictures (1 .mp4).',
    f'1 picture in {forget}: in subfolders',
  ):
    assert any(line in remark for remark in results['remarks'])
    assert out.count(line) == 1 and line in page


def test_the_list_of_suffixes_is_what_pillow_opens():
  PIL.Image.init()
  known = PIL.Image.registered_extensions()
  assert {known.get(suffix) for suffix in picture_files.SUFFIXES} <= {
    *PIL.Image.OPEN
  }
