"""The fixed prose of a report: corruption, repair, audit and terms."""

from typing import Any

import numpy as np

from cmu_jax.methods import study_names
from cmu_jax.report.frame import Results
from cmu_jax.studies.cuts import seed_stats

GLOSSARY = {
  'alpha': (
    'The length of the correcting step: the weights become theta - alpha tau. '
    'At alpha = 0 nothing changes.'
  ),
  'attack success rate': (
    'The share of test images of other classes that, once they carry the '
    'trigger, are given the target class. 0 is safe.'
  ),
  'corrupted model': (
    'The model to repair: it was trained on data of which a part was wrong.'
  ),
  'CUTS': (
    'Corrective unlearning in task space (arXiv 2511.18660): repair by '
    'subtracting a task vector, without the training data.'
  ),
  'estimated accuracy': (
    'How often two runs of information maximisation, on halves of the proxy '
    'images, give the class of a network: an estimate that needs no label. '
    'Mistakes that networks share make it too high.'
  ),
  'information maximisation': (
    'A repair that makes answers on unlabelled images sure and varied '
    '(arXiv 2002.08546). Its safe form takes the mean of two runs on halves of '
    'the images, if these change enough predictions alike.'
  ),
  'label recovery': (
    'How often the wrong label that an image was trained under is told from '
    'another wrong one, by the network alone: 0.5 is chance, 1 is always.'
  ),
  'oracle': (
    'The same network trained without the corrupted samples. Nobody who needs '
    'a repair has it; it marks what a full repair would reach.'
  ),
  'point': 'A hundredth of a rate: from 0.90 to 0.85 is a fall of 5 points.',
  'proxy': (
    'A small set of images that were not in the training set. CUTS corrupts '
    'them on purpose to learn what the corruption does to the weights.'
  ),
  'random vector': (
    'A control: a step of the same length in a direction that knows nothing.'
  ),
  'recovery': (
    'How much of the gap between the corrupted model and the oracle was '
    'closed, in percent of test accuracy. 100 is a full repair, below 0 is '
    'harm.'
  ),
  'seed': 'One complete repetition with other random numbers.',
  'target class accuracy': (
    'The share of clean test images of the target class that are still '
    'recognised. If it falls, the class was deleted along with the attack.'
  ),
  'task vector (tau)': (
    'The change of the weights when the corrupted model learns the corrupted '
    'proxy images: the direction in which more corruption lies.'
  ),
  'trigger': (
    'A small pattern in an image that makes a poisoned model answer with the '
    'target class.'
  ),
}


def _read_setting(config: dict[str, Any], *keys: str) -> Any:
  """The first of `keys` in the configuration or its corruption block."""
  # Configs hold these settings at either level.
  nested = config.get('corruption')
  settings = config | (nested if isinstance(nested, dict) else {})
  return next((settings[k] for k in keys if settings.get(k) is not None), None)


def _share(config: dict[str, Any]) -> str:
  rate = _read_setting(config, 'noise_rate', 'rate', 'poison_rate', 'fraction')
  # Some kinds of corruption have no rate.
  if not isinstance(rate, int | float):
    return 'a part'
  return f'{100 * rate:.4g} %'


def describe_corruption(results: Results) -> list[str]:
  """Describes the corruption of the training data in sentences."""
  config = results['config']
  of = f' of {config["dataset"]}' if config.get('dataset') else ''
  share = _share(config)
  if results['task'] == 'poison':
    target = _read_setting(config, 'target', 'target_class')
    # The index comes from the config and may not fit the names of the data.
    has_name = isinstance(target, int) and 0 <= target < len(
      results['class_names']
    )
    target_class = (
      f"class '{results['class_names'][target]}', the target class"
      if has_name
      else 'the target class'
    )
    images = (
      f'{share} of the images of {target_class}, carried a trigger. Their '
      'labels were right'
      if _read_setting(config, 'kind') == 'clean_label'
      else f'{share} of the images carried a trigger and were labelled as '
      f'{target_class}'
    )
    return [
      f'In the training set{of}, {images}. The model learned to '
      'answer with that class whenever it sees the trigger.'
    ]
  kind = _read_setting(config, 'kind', 'noise')
  # Labels by people have no rate that the config could state.
  if kind == 'human':
    return [
      f'The labels of the training set{of} were those that people gave, with '
      'their mistakes. The model learned a part of them by heart.'
    ]
  named = f' (kind: {kind})' if isinstance(kind, str) else ''
  return [
    f'In the training set{of}, {share} of the labels the corruption applies '
    f'to were replaced by wrong ones{named}. The model learned a part of them '
    'by heart.'
  ]


def describe_repair(results: Results) -> list[str]:
  """Describes the repair by CUTS in sentences."""
  pool = results['config'].get('proxy_fraction')
  size = (
    f' (as many as {100 * pool:.4g} % of the training images)'
    if isinstance(pool, int | float)
    else ''
  )
  procedure = (
    f'CUTS had the weights of the corrupted model and proxy images{size} that '
    'were not trained on; it did not see the training set. It corrupted the '
    'proxy images in the same way on purpose, let the corrupted model learn '
    'them, took the change of the weights as a task vector tau, and moved the '
    'weights the opposite way: theta - alpha tau.'
  )
  if results['task'] == 'poison':
    return [
      procedure,
      'It took the smallest alpha at which the trigger stops working on the '
      'proxy images. If there is none, it abstains and leaves the weights '
      'alone. This rule does not look at clean accuracy.',
    ]
  return [
    procedure,
    'It took the alpha with the highest score J on the proxy images. J is high '
    'when an image and its nearest neighbours in feature space are given the '
    'same class while all classes are still predicted. It uses no labels.',
    *_describe_adaptation(results),
  ]


def _describe_adaptation(results: Results) -> list[str]:
  """Describes information maximisation, if the run has it."""
  methods = {row['method'] for row in results['rows']}
  if 'information_maximization_safe' not in methods:
    return []
  return [
    'Information maximisation had the same images without any label: it made '
    'the answers on them sure and varied. It leads this report if its runs '
    'on halves of the images confirm each other in most seeds; otherwise '
    'CUTS does.'
  ]


def describe_audit(results: Results) -> list[str]:
  """Describes the label audit and its limits; empty without an audit."""
  column, task = 'label_recovery_rate', results['task']
  means = {
    method: float(np.mean(list(values.values())))
    for method in study_names.sort_names(
      study_names.CUTS, [row['method'] for row in results['rows']]
    )
    if (values := seed_stats.by_seed(results, method, column))
  }
  if not means:
    return []
  numbers = ', '.join(
    f'{value:.3f} after {study_names.present(method, task).label}'
    for method, value in means.items()
    # The table shows every method, but a sentence has room for few.
    if method in ('cuts', 'cuts_safe', 'finetune_clean_proxy')
  )
  corrupted = means.get('corrupted')
  oracle = means.get('oracle')
  return [
    'An attacker who has an image that was trained on under a wrong label, and '
    'the network, is offered that label and another wrong one. How often the '
    'right guess scores higher (0.5 is chance): '
    + (f'{corrupted:.3f} before the repair, ' if corrupted is not None else '')
    + numbers
    + (f', {oracle:.3f} in the oracle, which never saw them' if oracle else '')
    + '.',
    'A repair whose number is well above that of the oracle answers rightly '
    'and still holds the wrong labels. A number near it shows that this '
    'attack (RMIA, arXiv 2312.03262, with the oracles of the other seeds for '
    'references) finds nothing on average over these images: not that nothing '
    'is left, and nothing about single images. With one seed there are no '
    'references, and a network that never saw the labels may be above chance.',
  ]
