"""What pyproject.toml cannot say: which C extension there is. All else is in pyproject.toml."""
import os
import sys

from setuptools import setup

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # builds in isolation of the folder leave it out
setup(cffi_modules=["mesh_build.py:make_ffi"])
