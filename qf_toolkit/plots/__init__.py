"""Figures: functions that draw on an axes, whole figures made of them, and the style and provenance that they share."""
