"""QuantFormer: the auto-encoder, the response forecaster and the activation classifier as estimators."""
