"""The oldest version of every direct dependency that pyproject.toml allows, as constraints for pip; torch has that of constraints.txt, which is large."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("nwb", "cluster", "interpret", "notebooks", "dev")  # allensdk is installed apart, with versions of its own


def lowest(project, tested):
    """Lines `name==version`: the lower bounds of the project's dependencies and of EXTRAS, but torch as in the text `tested`."""
    wanted = [*project["dependencies"], *(one for extra in EXTRAS for one in project["optional-dependencies"][extra])]
    bounds = dict(re.fullmatch(r"([\w.-]+)>=([\w.]+).*", one).groups() for one in wanted)
    bounds["torch"] = re.search(r"^torch==(.*)$", tested, re.MULTILINE)[1]
    return [f"{name}=={version}" for name, version in bounds.items()]


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    print("\n".join(lowest(project, (ROOT / "constraints.txt").read_text(encoding="utf-8"))))
