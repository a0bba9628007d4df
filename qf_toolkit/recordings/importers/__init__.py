"""Importers: each file reads one source of recordings and returns Sessions."""
