"""The version of the toolkit, and those of the libraries that decide its results."""

from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"

LIBRARIES = ("torch", "numpy", "xarray", "scipy", "scikit-learn", "matplotlib", "seaborn", "openTSNE", "allensdk")


def versions():
    """{name: version} of the toolkit and of the libraries that are installed."""
    found = {"qf_toolkit": __version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
