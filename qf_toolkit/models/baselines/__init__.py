"""Models to compare with, one a file."""
