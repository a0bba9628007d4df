"""Importers: one source of recordings a file, each of which gives Sessions."""
