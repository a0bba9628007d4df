"""CalM: the quantiser and the forecaster of whole populations as estimators."""
