"""Who may import whom, and what must stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "configs": {"configs"},
    "model": {"configs", "model"},
    "data_prep": {"configs", "data_prep"},
    "pipeline": {
        "configs",
        "model",
        "pipeline",
        "data_prep.atomic",
        "data_prep.shards",
        "data_prep.tokenizer",
    },
}
PACKAGES = tuple(ALLOWED)


def imported_modules(path: Path) -> set[str]:
    """Dotted names of this project's modules that `path` imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            is_package = (ROOT / Path(*node.module.split("."))).is_dir()
            names |= (
                {f"{node.module}.{alias.name}" for alias in node.names}
                if is_package
                else {node.module}
            )
    return {name for name in names if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_in_one_direction(package):
    allowed = ALLOWED[package]
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in sorted(imported_modules(path))
        if name.split(".")[0] not in allowed and ".".join(name.split(".")[:2]) not in allowed
    ]
    assert not wrong


def test_nothing_imports_the_train_script():
    importers = [
        path.name
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "pipeline.train" in imported_modules(path)
    ]
    assert not importers


def test_no_file_takes_the_name_of_an_installed_package():
    """`deepspeed pipeline/train.py` puts pipeline/ first on sys.path for its first lines."""
    import importlib.metadata

    taken = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    files = {path.stem for path in (ROOT / "pipeline").glob("*.py")} - {"__init__"}
    assert not files & taken


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("pipeline.plan", ("torch", "deepspeed", "megatron", "mlflow", "transformers")),
        ("pipeline.config", ("torch", "deepspeed", "megatron", "mlflow", "transformers")),
        ("data_prep.run", ("torch", "deepspeed", "megatron", "mlflow", "transformers", "dask")),
        ("data_prep.shards", ("torch", "dask", "pyarrow")),
        ("pipeline.run_log", ("torch", "mlflow")),
        ("pipeline.run_config", ("torch", "deepspeed", "megatron", "mlflow", "transformers")),
        ("model.layers", ("torch._dynamo", "torch._inductor", "transformers", "deepspeed")),
    ],
)
def test_light_modules_import_nothing_heavy(module, heavy):
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("script", ["pipeline/train.py", "pipeline/finetune.py"])
def test_help_of_the_train_script_needs_no_torch(script):
    code = (
        "import runpy, sys; sys.argv = ['train.py', '--help']\n"
        f"try: runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "CONFIG.yaml" in done.stdout
