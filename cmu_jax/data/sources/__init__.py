"""Data sets from archives, folders and TFDS."""
