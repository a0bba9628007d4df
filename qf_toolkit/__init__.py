"""Forecast neural activity from two-photon calcium recordings, and see why the model says so."""
