"""The demo, the models that the notebooks share, and the pages of figures and reports."""
