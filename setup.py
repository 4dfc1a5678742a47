"""Installs the four packages; versions of what they need are pinned in requirements.txt."""

from setuptools import find_packages, setup

setup(
    name="encoder-pretraining",
    version="0.1.0",
    description="Pretrain RoBERTa-style encoders at scale: data, tensor-parallel training, export",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["configs*", "data_prep*", "model*", "pipeline*"]),
    package_data={"configs": ["*.yaml"]},
    install_requires=[
        "dask[distributed]",
        "deepspeed",
        "fastwarc",
        "fsspec",
        "gigatoken",
        "megatron-core",
        "mlflow",
        "mwparserfromhell",
        "ninja",
        "numpy",
        "orjson",
        "pyarrow",
        "pydantic",
        "PyYAML",
        "rensa",
        "resiliparse",
        "safetensors",
        "scipy",
        "tokenizers",
        "torch",
        "transformers",
        "webdataset",
        "xxhash",
        "zstandard",
    ],
)
