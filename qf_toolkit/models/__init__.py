"""Torch modules that know tensors only: no files, no labelled arrays, no plots."""
