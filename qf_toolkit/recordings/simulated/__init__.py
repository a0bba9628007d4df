"""Simulated recordings whose truth is known: a cortex, its protocol of stimuli, and files in foreign layouts."""
