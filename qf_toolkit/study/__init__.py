"""The demo, the models that the notebooks share, the report, and the page of figures."""
