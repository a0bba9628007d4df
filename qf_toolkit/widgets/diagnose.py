"""Find out why a front end shows text instead of a widget."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NEEDED = {"ipywidgets": "the kernel", "anywidget": "the kernel", "jupyterlab_widgets": "JupyterLab", "jupyterlab": "JupyterLab"}
EXTENSIONS = {"@jupyter-widgets/jupyterlab-manager": "jupyterlab_widgets", "anywidget": "anywidget"}


def diagnose():
    """Print which packages the widgets need, which of them are missing, and how to install those.

    Widgets run in two programs, the kernel and JupyterLab, which may have two environments. The function looks into the environment of the kernel.

    Returns
    -------
    bool
        True if nothing is missing in this environment.
    """
    print(f"kernel: {sys.executable}")
    missing = []
    for name, where in NEEDED.items():
        try:
            print(f"  {name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
            print(f"  {name} is missing (needed by {where})")
    folders = _folders()
    for extension, package in EXTENSIONS.items():
        if not any((folder / extension).is_dir() for folder in folders):
            print(f"  JupyterLab's extension {extension} is missing in this environment (it comes with {package})")
            missing.append(package)
    if missing:
        print(f"install: {sys.executable} -m pip install {' '.join(dict.fromkeys(missing))}; then restart JupyterLab and reload the page.")
    else:
        print(
            "all is here. If a cell still shows text or nothing: JupyterLab may run from another environment (run `jupyter labextension list` where it was "
            "started, and install the same packages there), or the page was open before the installation (reload it). Exports and GitHub show the static picture."
        )
    return not missing


def _folders():
    """Folders in which JupyterLab looks for extensions: of this environment, of the user and of the system."""
    try:
        from jupyter_core.paths import jupyter_path
    except ImportError:
        return [Path(sys.prefix) / "share" / "jupyter" / "labextensions"]
    return [Path(p) for p in jupyter_path("labextensions")]
