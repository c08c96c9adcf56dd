"""The catalogue of methods agrees with the methods and with every study."""

import subprocess
import sys

import pytest
from test_array_checks import NETWORK, TRAINING

from cmu_jax.methods import catalogue, detection, factories, study_names
from cmu_jax.studies.classes import settings as classes
from cmu_jax.studies.corrective import roster as corrective
from cmu_jax.studies.engine import catalogue as subsets

# Rows that a study computes from the results of other methods.
WITHOUT_FACTORY = {'none', 'oracle'}
STUDIES = (
  study_names.CORRECTIVE,
  study_names.SUBSETS,
  study_names.CLASSES,
  study_names.COMMAND,
)


def test_the_names_of_the_catalogue_are_those_of_the_studies():
  offered = {
    study: set(study_names.NAMES[study].values()) - {'none'}
    for study in STUDIES
  }
  assert offered[study_names.CORRECTIVE] == set(corrective.ENTRIES)
  assert offered[study_names.SUBSETS] == set(subsets.ENTRIES)
  assert offered[study_names.CLASSES] == set(classes.entries())
  assert tuple(detection.DETECTORS) == catalogue.DETECTORS


@pytest.mark.parametrize('study', [*STUDIES, study_names.CUTS])
def test_every_name_of_a_study_is_found_and_described(study):
  names = list(study_names.NAMES[study].values())
  assert len(set(names)) == len(names)
  for canonical, name in study_names.NAMES[study].items():
    assert study_names.find(study, name) == canonical
    assert '{' not in study_names.describe(study, name)
  with pytest.raises(KeyError, match='nonsense'):
    study_names.find(study, 'nonsense')


def test_a_paper_name_may_mean_different_methods():
  find = study_names.find
  assert find('corrective', 'scrub') == 'scrub'
  assert find('classes', 'scrub') == 'scrub_original'
  assert find('subsets', 'ga') == 'alternating_ascent'
  assert find('subsets', 'ga_alone') == 'gradient_ascent'
  assert find('corrective', 'rewod') == find('subsets', 'retrain') == 'retrain'


def test_every_offered_method_has_a_factory():
  offered = {name for study in STUDIES for name in study_names.NAMES[study]}
  for name in offered - WITHOUT_FACTORY:
    assert callable(factories.factory(name)), name
  assert factories.factory('amun_salun_alone').keywords == {
    'share': catalogue.SALIENT_SHARE,
    'sets': ('forget', 'adversarial'),
  }


@pytest.mark.parametrize('name', ['eu_k', 'cf_k'])
def test_the_last_layers_alone_need_the_name_of_the_others(name):
  with pytest.raises(TypeError, match='frozen'):
    factories.factory(name)(NETWORK, TRAINING)


# The two lines that add a method, before anything has read the tables.
ADDITION = """
from cmu_jax.methods import catalogue
catalogue.ENTRIES['my_method'] = catalogue.Entry(
  'retraining', ('retain',), 'tries something on {retain}', 'retrain',
  studies=('corrective', 'unlearn'),
)
from cmu_jax.methods import study_names
from cmu_jax.studies.corrective import roster, settings
assert roster.ENTRIES['my_method'].settings == ('unlearn',)
assert list(study_names.NAMES['unlearn'])[-1] == 'my_method'
print(study_names.describe('corrective', 'my_method'))
"""


def test_a_line_in_the_catalogue_offers_a_method():
  completed = subprocess.run(
    [sys.executable, '-c', ADDITION],
    capture_output=True,
    text=True,
    check=True,
  )
  assert completed.stdout == 'tries something on S_tr without S_f\n'


def test_rows_are_in_the_order_of_the_tables():
  names = ['fine_pruning', 'amun', 'mine', 'rewod', 'knn_cf', 'none', 'amun']
  assert study_names.sort_names('corrective', names) == (
    *('none', 'rewod', 'amun', 'knn_cf', 'mine', 'fine_pruning'),
  )
  assert study_names.sort_names('cuts', ['oracle', 'cuts', 'corrupted']) == (
    *('corrupted', 'cuts', 'oracle'),
  )


def test_labels_of_the_cuts_study():
  assert study_names.present('corrupted').label == 'do nothing'
  assert study_names.present('my_method') == ('my method', '')
  assert 'test labels' in study_names.present('cuts_best_alpha').note
  assert study_names.present('cuts_best_alpha', 'poison').note == 'diagnostic'
