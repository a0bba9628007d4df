"""Which saved models there are, and how any of them is loaded."""

from ..errors import QfError
from .notes import read_note


def load(folder, device="auto"):
    """Load any saved model.

    Parameters
    ----------
    folder : str or Path
        What `save`, `qf pretrain --out` or `qf fit --out` wrote.
    device : str

    Returns
    -------
    Autoencoder, QuantFormerForecaster or QuantFormerClassifier

    Raises
    ------
    QfError
        If it is no saved model, or one of another version; DamagedFileError if a file of it is cut short or altered.

    Examples
    --------
    >>> forecaster.save("runs/forecast")
    >>> bool((load("runs/forecast").predict(split.test)["forecast"] == forecaster.predict(split.test)["forecast"]).all())
    True
    """
    from .quantformer.activation import QuantFormerClassifier
    from .quantformer.pretrain import Autoencoder
    from .quantformer.response import QuantFormerForecaster

    kind = read_note(folder)["kind"]
    kinds = {c.kind: c for c in (Autoencoder, QuantFormerForecaster, QuantFormerClassifier)}
    if kind not in kinds:
        raise QfError(f"{folder}: expected one of {sorted(kinds)}, found {kind[:40]!r}. Update the toolkit.")
    return kinds[kind].load(folder, device=device)
