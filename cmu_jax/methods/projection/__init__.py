"""Methods that project weights or activations."""
