"""Maps the folders at the repository's root into the one import package `sardonyx`.

The sub-packages are found, not listed: a list kept by hand forgets the newest folder.
"""

from setuptools import find_packages, setup

ROOTS = {
    "sardonyx": "compiler",
    "sardonyx.passes": "passes",
    "sardonyx.backends": "backends",
    "sardonyx.models": "models",
}

packages = [
    name for root, folder in ROOTS.items() for name in (root, *(f"{root}.{sub}" for sub in find_packages(folder)))
]

setup(
    packages=[*packages, "sardonyx.models.data"],
    package_dir=ROOTS,
    package_data={
        "sardonyx": ["py.typed"],
        "sardonyx.models.data": ["*"],
        "sardonyx.report": ["templates/*"],
    },
)
