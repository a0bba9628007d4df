"""Stores of toy recordings."""

import qf_toolkit as qf


def store_of(path, *sessions):
    store = qf.Store(path, create=True)
    for session in sessions:
        store.add(session)
    return store
