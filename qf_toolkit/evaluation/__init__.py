"""Scores, tables of every row side by side, and comparisons with their uncertainty."""
