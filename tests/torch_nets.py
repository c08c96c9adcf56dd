"""Small PyTorch networks of the wide families; skips where PyTorch is not."""

from torch_twin import torch, torchvision


def _resnet(block, sizes, cifar, classes):
  """Two stages: what torchvision cannot leave out becomes the identity."""
  nn, vision = torch().nn, torchvision().models
  with torch().device('meta'):
    kind = getattr(vision.resnet, block)
    net = vision.ResNet(kind, [*sizes, 1, 1])
    net.layer3, net.layer4 = nn.Identity(), nn.Identity()
    net.fc = nn.Linear(128 * kind.expansion, classes)
    if cifar:
      net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
      net.maxpool = nn.Identity()
  return net


def _vgg(batch_norm, classes):
  """A width of 4 and hidden layers of 20."""
  nn, vision = torch().nn, torchvision().models
  full = vision.vgg.cfgs['E']
  plan = [size if size == 'M' else size // 16 for size in full]
  with torch().device('meta'):
    layers = vision.vgg.make_layers(plan, batch_norm)
    net = vision.VGG(layers, init_weights=False)
    net.classifier[0] = nn.Linear(32 * 49, 20)
    net.classifier[3] = nn.Linear(20, 20)
    net.classifier[6] = nn.Linear(20, classes)
  return net


def _densenet(classes):
  vision = torchvision().models
  with torch().device('meta'):
    return vision.DenseNet(4, (2, 3), 8, num_classes=classes)


def _convolution(size, inputs, outputs, stride, bias):
  padding = size // 2
  return torch().nn.Conv2d(inputs, outputs, size, stride, padding, bias=bias)


def _wrn_block(corrective, inputs, outputs, stride):
  """A block of either kind of Wide ResNet."""
  nn = torch().nn

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      first, second = (1, stride) if corrective else (stride, 1)
      self.bn1 = nn.BatchNorm2d(inputs)
      self.conv1 = _convolution(3, inputs, outputs, first, corrective)
      self.bn2 = nn.BatchNorm2d(outputs)
      self.conv2 = _convolution(3, outputs, outputs, second, corrective)
      if inputs != outputs:
        side = _convolution(1, inputs, outputs, stride, corrective)
        if corrective:
          self.shortcut = nn.Sequential(side, nn.BatchNorm2d(outputs))
        else:
          self.convShortcut = side

    def forward(self, x):
      active = self.bn1(x).relu()
      y = self.conv2(self.bn2(self.conv1(active)).relu())
      if inputs == outputs:
        return y + x
      return y + (self.shortcut(x) if corrective else self.convShortcut(active))

  return Block()


def _wrn(corrective, classes):
  """Two blocks a stage and a width of 2, of either kind."""
  nn = torch().nn

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1 = _convolution(3, 3, 16, 1, corrective)
      for stage, outputs in enumerate((32, 64, 128), start=1):
        blocks = nn.Sequential(
          _wrn_block(
            corrective,
            16 if stage == 1 else outputs // 2,
            outputs,
            1 if stage == 1 else 2,
          ),
          _wrn_block(corrective, outputs, outputs, 1),
        )
        if corrective:
          self.add_module(f'layer{stage}', blocks)
        else:
          block = nn.Module()
          block.layer = blocks
          self.add_module(f'block{stage}', block)
      if not corrective:
        self.bn1 = nn.BatchNorm2d(128)
      self.fc = nn.Linear(128, classes)

    def forward(self, x):
      x = self.conv1(x)
      for stage in (1, 2, 3):
        if corrective:
          x = getattr(self, f'layer{stage}')(x)
        else:
          x = getattr(self, f'block{stage}').layer(x)
      x = x if corrective else self.bn1(x).relu()
      return self.fc(x.mean((2, 3)))

  with torch().device('meta'):
    return Net()


NETS = {
  'resnet34': lambda classes: _resnet('BasicBlock', (1, 2), True, classes),
  'resnet50': lambda classes: _resnet('Bottleneck', (2, 2), False, classes),
  'wrn': lambda classes: _wrn(False, classes),
  'wrn_corrective': lambda classes: _wrn(True, classes),
  'vgg19': lambda classes: _vgg(False, classes),
  'vgg19_bn': lambda classes: _vgg(True, classes),
  'densenet121': _densenet,
}
