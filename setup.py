"""Metadata stands in `setup.cfg`; only the mapping of `conf/` into the package needs code."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages("src"), "bnn_lightning.conf"],
    package_dir={"": "src", "bnn_lightning.conf": "conf"},
)
