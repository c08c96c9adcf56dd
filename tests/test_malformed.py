"""Every mistake is one line that names it, exit code 2, and no harm done."""

import pytest
import small_run
from small_run import NOISE, POISON, refused

from cmu_jax import main
from cmu_jax.core import config, errors
from cmu_jax.studies.classes import settings
from cmu_jax.studies.corrective import settings as benchmark
from cmu_jax.studies.cuts import settings as cuts_settings
from cmu_jax.studies.ensembles import settings as ensemble
from cmu_jax.studies.membership import settings as membership
from cmu_jax.studies.negation import settings as negation
from cmu_jax.studies.subsets import settings as forgetting

SETTINGS = {
  'class_unlearning': settings,
  'corrective': benchmark,
  'ensemble': ensemble,
  'forgetting': forgetting,
  'membership': membership,
  'negation': negation,
}


@pytest.fixture(autouse=True)
def _environment(tmp_path, monkeypatch):
  small_run.keep_environment(monkeypatch)
  monkeypatch.setenv('CMU_JAX_CACHE', str(tmp_path / 'cache'))


def flat(text):
  """'a=1; b=2' as fields."""
  return dict(field.split('=', 1) for field in text.split('; '))


FIELDS = [
  ('noise_rat=1', "did you mean 'noise_rate'"),
  ('train.steps=x', 'takes an int'),
  ('noise_rate=1.5', 'config.noise_rate is 1.5; it must be at least 0'),
  ('noise_rate=-0.1', 'config.noise_rate is -0.1'),
  ('noise_rate=nan', 'a finite number'),
  ('proxy_fraction=0', 'config.proxy_fraction is 0.0'),
  ('proxy_fraction=1', 'config.proxy_fraction is 1.0'),
  ('proxy_fraction=0.001', 'use --config.proxy_fraction=0.0'),
  ('seeds=()', 'config.seeds is ()'),
  ('seeds=1,1', 'config.seeds is (1, 1)'),
  ('seeds=-1', 'config.seeds is (-1,)'),
  ('seeds=4294967296', 'the limit is 4294967295'),
  ('seeds=0.5', 'takes a tuple'),
  ('train.steps=0', 'give either epochs or steps'),
  ('train.epochs=3', 'give either epochs or steps'),
  ('train.epochs=-1', 'give either epochs or steps'),
  ('train.steps=4000000000', 'train for fewer steps'),
  ('train.batch_size=0', 'config.train.batch_size must be above 0'),
  ('finetune.batch_size=-3', 'config.finetune.batch_size'),
  ('train.learning_rate=0', 'config.train.learning_rate is 0.0'),
  ('train.learning_rate=nan', 'a finite number'),
  ('proxy_train.learning_rate=-1', 'config.proxy_train.learning_rate'),
  ('finetune.schedule=cosin', "did you mean 'cosine'"),
  ('finetune.optimizer=adam', "did you mean 'adamw'"),
  ('train.weight_decay=-1', 'config.train.weight_decay is -1.0'),
  ('train.schedule=cosine; train.minimum=5', 'config.train.minimum is 5.0'),
  ('train.schedule=warmup_cosine; train.warmup=50', 'below 20 steps'),
  ('train.schedule=warmup_cosine; train.hold=-1', 'config.train.hold is -1'),
  ('train.schedule=multistep', 'config.train.milestones is ()'),
  (
    'train.schedule=multistep; train.milestones=1,a',
    'integers above 0',
  ),
  (
    'train.schedule=multistep; train.milestones=5; train.factor=0',
    'config.train.factor is 0.0',
  ),
  ('train.learning_rate=1e9', 'not finite at step'),
  ('task=poisn', "did you mean 'poison'"),
  ('corruption.kind=symetric', "did you mean 'symmetric'"),
  ('corruption.kind=poison', 'of task label_noise'),
  ('model.name=fcc', "did you mean 'fc'"),
  ('model.width=0', 'config.model.width is 0'),
  ('model.width=1000000000', 'lower config.model.width'),
  ('model.width=4000000000', 'GiB in training, this machine has'),
  ('model.dtype=float23', "did you mean 'float32'"),
  ('corruption.target=99', 'config.corruption.target is 99'),
  ('input.mean=0.1,0.2', 'config.input.mean (0.1, 0.2)'),
  ('input.mean=0.1,0.2; input.std=1,1', 'mean and std are of 2 channels'),
  ('input.std=0', 'config.input.std is (0.0,)'),
  ('input.resize=-1', 'config.input.resize is -1'),
  ('input.pad=-1', 'config.input.pad is -1'),
  ('input.pad=8', 'a side of 8 pixels'),
  ('image_size=4', 'image_size 4 does not apply'),
  ('evaluate.points=1', 'config.evaluate.points is 1'),
  ('evaluate.batch_size=0', 'config.evaluate.batch_size is 0'),
  ('evaluate.path_images=-1', 'config.evaluate.path_images is -1'),
  ('proxy_draws=0', 'config.proxy_draws is 0'),
  ('proxy_draws=1000000000', 'at least 1 and at most 1000'),
  ('select.replicates=10000000', 'at least 2 and at most 100000'),
  ('checkpoint_seconds=-1', 'config.checkpoint_seconds is -1.0'),
  ('train_limit=5', 'config.train_limit 5 leaves no image of class'),
  ('test_limit=9', 'config.test_limit 9 leaves no image of class'),
  ('select.class_share=1.5', 'config.select.class_share is 1.5'),
  ('select.head_input=row', "did you mean 'raw'"),
  ('select.patience=-1', 'config.select.patience is -1'),
  ('dataset=digit', "did you mean 'digits'"),
  ('dataset=mnist; data_dir=/nowhere', "'mnist' is not in the data_dir"),
  ('dataset=cifar10; data_dir=/etc/passwd', 'data_dir /etc/passwd'),
  ('dataset=folder:/nowhere', 'the image folder /nowhere does not exist'),
  ('dataset=npz:/nowhere.npz', 'the file /nowhere.npz does not exist'),
]


@pytest.mark.parametrize(('fields', 'named'), FIELDS)
def test_settings(capfd, tmp_path, fields, named):
  assert named in refused(capfd, tmp_path, flat(fields))


@pytest.mark.parametrize(
  ('fields', 'named'),
  [
    ('corruption.target=-1', 'config.corruption.target is -1'),
    ('corruption.trigger_margin=9,9', 'does not fit in a 8x8 image'),
    ('corruption.trigger_margin=1', 'config.corruption.trigger_margin is (1,)'),
    ('corruption.trigger_margin=-1,0', 'trigger_margin is (-1, 0)'),
    ('corruption.trigger_percent=0', 'trigger percent 0.0'),
    ('select.threshold=2', 'config.select.threshold is 2.0'),
    ('noise_rate=0.95', 'cannot poison'),
    ('noise_rate=0.001', 'poisons none of the 270 training images; use 0.0037'),
  ],
)
def test_poison_settings(capfd, tmp_path, fields, named):
  assert named in refused(capfd, tmp_path, flat(fields), POISON)


@pytest.mark.parametrize(
  ('class_map', 'named'),
  [
    ('', "unknown class_map ''"),
    ('cifra10', "did you mean 'cifar10'"),
    ('cifar100', 'class_map names class'),
    ('3:x', "unknown class in class_map 'x'"),
    ('3:5:7', "write pairs such as '3:5,5:3'"),
    ('3:', "unknown class in class_map ''"),
    ('7:7', 'sends class 7 to itself'),
    ('3:99', 'class_map names class 99'),
    ('3:5,3:6', 'sends a class to two others'),
  ],
)
def test_class_maps(capfd, tmp_path, class_map, named):
  fields = {'corruption.kind': 'asymmetric', 'corruption.class_map': class_map}
  assert named in refused(capfd, tmp_path, fields)


def test_a_mistake_does_not_claim_the_folder(capfd, tmp_path):
  folder = tmp_path / 'w'
  wrong = small_run.argv(NOISE, folder, {'proxy_fraction': 0.001})
  assert main.main(wrong) == 2
  wrong = small_run.argv(NOISE, folder, {'train.learning_rate': 1e9})
  assert main.main(wrong) == 2
  assert {path.name for path in folder.iterdir()} == {'.lock'}
  assert 'another config' not in capfd.readouterr().err


def test_what_was_trained_keeps_the_folder(capfd, tmp_path):
  (tmp_path / 'w' / 'checkpoints').mkdir(parents=True)
  (tmp_path / 'w' / 'config.json').write_text('{"a": 1}')
  said = refused(capfd, tmp_path, {})
  assert 'another config' in said and 'choose another --workdir' in said


@pytest.mark.parametrize('place', ['file/below', '/proc/none'])
def test_a_work_folder_that_cannot_be(capfd, tmp_path, place):
  (tmp_path / 'file').write_text('')
  assert main.main(small_run.argv(NOISE, tmp_path / place)) == 2
  said = capfd.readouterr().err
  assert 'choose a writable one with --workdir' in said
  assert said.count('\n') == 1


def test_no_device_is_one_line(capfd, tmp_path, monkeypatch):
  import jax

  def none():
    raise RuntimeError("Unable to initialize backend 'cuda':\n no such plug-in")

  monkeypatch.setattr(jax, 'device_count', none)
  assert 'JAX_PLATFORMS=cpu' in refused(capfd, tmp_path, {})


@pytest.mark.parametrize(
  'text', ['RESOURCE_EXHAUSTED: 9 GiB\nmore', 'INTERNAL']
)
def test_out_of_memory_is_one_line_and_a_bug_is_not(
  capfd, tmp_path, monkeypatch, text
):
  import jax

  from cmu_jax.studies.cuts import scene

  def full(config):
    raise jax.errors.JaxRuntimeError(text)

  monkeypatch.setattr(scene, 'load_world', full)
  if text == 'INTERNAL':
    with pytest.raises(jax.errors.JaxRuntimeError):
      main.main(small_run.argv(NOISE, tmp_path / 'w'))
  else:
    assert 'out of memory: RESOURCE_EXHAUSTED: 9 GiB; lower' in refused(
      capfd, tmp_path, {}
    )


LIMITED = """
import os, resource, sys
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '1000'
from cmu_jax import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(main.main(sys.argv[1:]))
"""


def test_the_process_itself(tmp_path):
  fields = {'finetune.schedule': 'cosin'}
  done = small_run.process(small_run.argv(NOISE, tmp_path / 'w', fields))
  assert (done.stderr.count('\n'), done.returncode) == (1, 2)
  assert done.stderr.startswith('error: ') and done.stdout == ''


@pytest.mark.slow
def test_a_full_disk_can_be_mended(tmp_path):
  # No file of this process may grow over 20 kB: a checkpoint does.
  fields = {'model.width': 512}
  arguments = small_run.argv(NOISE, tmp_path / 'w', fields)
  done = small_run.process(arguments, ['-c', LIMITED])
  assert done.returncode == 2, done.stderr
  *_, said = done.stderr.splitlines()
  assert said.startswith('error: cannot write checkpoint')
  assert 'free some space' in said and 'Traceback' not in done.stderr
  assert main.main(arguments) == 0
  assert [p for p in (tmp_path / 'w').rglob('*') if '.part' in p.name] == []


def test_every_shipped_config_passes():
  files = sorted((small_run.ROOT / 'configs').glob('[!_]*.py'))
  for path in files:
    for arg in ('', ':smoke'):
      loaded = config.load(f'{path}{arg}').config
      SETTINGS.get(loaded.task, cuts_settings).check(loaded)


def test_a_control_without_noise_is_no_mistake():
  fields = {'noise_rate': '0', 'evaluate.path_images': '0'}
  cuts_settings.check(config.load(POISON, fields).config)
  with pytest.raises(errors.UserError):
    cuts_settings.check(config.load(POISON, {'noise_rate': '-1'}).config)
