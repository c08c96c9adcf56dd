"""Network families, a file each."""
