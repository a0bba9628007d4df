"""Errors that a user can cause. Each message states what was expected, what was found and how to mend it."""


class QfError(ValueError):
    """Base of every error that bad input or bad use can cause; the command line prints it as one line.

    Examples
    --------
    >>> try:
    ...     qf.open_store("nowhere")
    ... except qf.QfError as error:
    ...     print(error)  # doctest: +ELLIPSIS
    store: ...
    """


class SessionError(QfError):
    """A recording that breaks the schema of a Session."""


class DamagedFileError(QfError):
    """A file that was cut short, altered or written by something else."""


class UnknownKeyError(QfError):
    """A key of a neuron, condition or session that is not in the store or the model."""


class LeakageError(QfError):
    """An evaluation on frames that the model saw in training."""


def did_you_mean(name, known, most=5):
    """Suggest keys in place of an unknown `name`.

    Parameters
    ----------
    name : object
        The unknown key.
    known : iterable
        The keys that exist.
    most : int
        How many of `known` are listed if none resembles `name`.

    Returns
    -------
    str
        "did you mean ...?" with up to three keys that resemble `name`, else "known: ..." with the first `most` keys.
    """
    import difflib

    known = [str(k) for k in known]
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
    if close:
        return f"did you mean {', '.join(close)}?"
    shown = ", ".join(known[:most]) + (f", ... ({len(known)} in all)" if len(known) > most else "")
    return f"known: {shown}"
