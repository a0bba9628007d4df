"""Decoding: the animal's behaviour, or a category of the trial, read from the activity of the population. One family of decoders a file."""
