"""What every other package uses: types, errors, keys, files, the store."""
