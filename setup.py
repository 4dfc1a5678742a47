"""Lets tools that expect a setup.py install the packages; pyproject.toml holds the metadata."""

from setuptools import setup

setup()
