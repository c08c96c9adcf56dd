"""Other ways to control or to bound a convolution's norm, for comparison."""
