"""Network families, one file each.

A family has a factory `(num_classes, image_shape, **options) -> Classifier`
and, where PyTorch has the network, `torch_name`: a module's path here, such as
'body/stage2_block1/norm2', to its name in the state dict. Where the last layers
can be trained alone, `layer_modules(**options)` lists the modules of each layer
from first to last.

All factories share some arguments, which they do not describe again:

num_classes  k
image_shape  (h, w, c) of the images as the network sees them
dtype        'float32' or 'bfloat16', the type that the body computes in
convolve     computes the convolutions, see `conv.convolve`

A factory raises a UserError for options and images that it cannot take.

Blocks and bodies take `layer`, a `layers.Conv` with initialiser, dtype and
`convolve` already bound. Stems are the first convolution without a bias unless
stated otherwise; trunks end in the mean over the image.
"""
