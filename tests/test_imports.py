"""Who may import whom, and what must stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("configs", "data_prep", "model", "pipeline")
EVERYWHERE = ("configs",)
"""May be imported by every package."""
IN_ALL_OF_PIPELINE = ("model", "data_prep.dataset")
"""May be imported by every package of pipeline/."""

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "configs": (),
    "model": ("model.objectives", "model.parallel"),
    "model.objectives": (),
    "model.parallel": (),
    "model.hugging_face": ("model", "model.objectives", "model.parallel"),
    "data_prep.dataset": (),
    "data_prep.engine": ("data_prep.dataset",),
    "data_prep.kernels": (),
    "data_prep.text": ("data_prep.kernels",),
    "data_prep.filters": ("data_prep.kernels", "data_prep.text"),
    "data_prep.readers": ("data_prep.dataset",),
    "data_prep.documents": (
        *("data_prep.dataset", "data_prep.engine", "data_prep.readers"),
        *("data_prep.text", "data_prep.filters"),
    ),
    "data_prep.dedup": (
        *("data_prep.dataset", "data_prep.documents", "data_prep.engine"),
        *("data_prep.kernels", "data_prep.readers", "data_prep.text"),
    ),
    "data_prep.tokenization": (
        *("data_prep.dataset", "data_prep.dedup", "data_prep.documents", "data_prep.engine"),
        "data_prep.kernels",
    ),
    "data_prep.packing": (
        *("data_prep.dataset", "data_prep.dedup", "data_prep.documents", "data_prep.engine"),
    ),
    "data_prep.report": (
        *("data_prep.dataset", "data_prep.dedup", "data_prep.documents", "data_prep.engine"),
        "data_prep.filters",
    ),
    "pipeline.optim": (),
    "pipeline.validation": (),
    "pipeline.launch": (),
    "pipeline.data": ("pipeline.launch",),
    "pipeline.fault_tolerance": ("pipeline.data",),
    "pipeline.checkpoint": ("pipeline.data", "pipeline.optim", "pipeline.validation"),
    "pipeline.start": ("pipeline.data", "pipeline.checkpoint", "pipeline.hugging_face"),
    "pipeline.run": (
        *("pipeline.optim", "pipeline.data", "pipeline.fault_tolerance", "pipeline.checkpoint"),
        *("pipeline.validation", "pipeline.start"),
    ),
    "pipeline.planning": (
        *("pipeline.optim", "pipeline.data", "pipeline.checkpoint", "pipeline.start"),
        "pipeline.run",
    ),
    "pipeline.averaging": ("pipeline.optim", "pipeline.run", "pipeline.checkpoint"),
    "pipeline.tracking": ("pipeline.launch", "pipeline.run", "pipeline.checkpoint"),
    "pipeline.reporting": (*("pipeline.checkpoint", "pipeline.run", "pipeline.tracking"),),
    "pipeline.engine": (
        *("pipeline.launch", "pipeline.optim", "pipeline.data", "pipeline.run"),
        "pipeline.checkpoint",
    ),
    "pipeline.training": (
        *("pipeline.launch", "pipeline.data", "pipeline.fault_tolerance", "pipeline.run"),
        *("pipeline.tracking", "pipeline.engine", "pipeline.validation", "pipeline.checkpoint"),
    ),
    "pipeline.hugging_face": ("pipeline.checkpoint",),
    "pipeline.model_cards": (
        *("pipeline.checkpoint", "pipeline.run", "pipeline.tracking", "pipeline.hugging_face"),
    ),
    "pipeline.pretraining": (
        *("pipeline.launch", "pipeline.optim", "pipeline.data", "pipeline.fault_tolerance"),
        *("pipeline.run", "pipeline.checkpoint", "pipeline.tracking", "pipeline.engine"),
        *("pipeline.training", "pipeline.hugging_face", "pipeline.validation", "pipeline.start"),
        "pipeline.model_cards",
    ),
    "pipeline.generation": ("pipeline.hugging_face",),
    "pipeline.prediction": (
        *("pipeline.run", "pipeline.checkpoint", "pipeline.engine", "pipeline.hugging_face"),
        "pipeline.finetuning",
    ),
    "pipeline.finetuning": (
        *("pipeline.launch", "pipeline.optim", "pipeline.data", "pipeline.fault_tolerance"),
        *("pipeline.run", "pipeline.checkpoint", "pipeline.tracking", "pipeline.engine"),
        *("pipeline.training", "pipeline.hugging_face", "pipeline.validation", "pipeline.start"),
        *("pipeline.model_cards", "pipeline.planning"),
    ),
    "pipeline.evaluation": (
        *("pipeline.data", "pipeline.run", "pipeline.checkpoint", "pipeline.tracking"),
        *("pipeline.engine", "pipeline.hugging_face", "pipeline.pretraining"),
        "pipeline.finetuning",
    ),
}
"""What a package may import of this project besides itself, the standard table of the layout.

The files directly in data_prep/ compose its packages; those directly in pipeline/ are the commands:
they may import everything of their side, and only commands may import commands.
"""

COMPOSERS = {
    "data_prep": (*EVERYWHERE, "data_prep"),
    "pipeline": (*EVERYWHERE, *IN_ALL_OF_PIPELINE, "pipeline"),
}


def module_name(path: Path) -> str:
    """The dotted name of the module in `path`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package_of(module: str) -> str:
    """The package of the table that a module of this project belongs to."""
    parts = module.split(".")
    sub_package = ".".join(parts[:2])
    return sub_package if sub_package in MAY_IMPORT else parts[0]


def is_command(module: str) -> bool:
    """Whether `module` is started by users, and so above every package."""
    return module.endswith(".__main__") or package_of(module) == "pipeline"


def imported_modules(path: Path) -> set[str]:
    """Dotted names of this project's modules that `path` imports.

    Those inside functions and for type checkers count too: no late import may hide a circle.
    """
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = ROOT / Path(*node.module.split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                names.add(f"{node.module}.{alias.name}" if is_module else node.module)
    return {name for name in names if name.split(".")[0] in PACKAGES}


def is_inside(module: str, packages: Iterable[str]) -> bool:
    """Whether `module` is one of `packages` or inside one."""
    return any(module == name or module.startswith(f"{name}.") for name in packages)


def may_import(importer: str, imported: str) -> bool:
    """Whether the table lets the module `importer` import the module `imported`."""
    package = package_of(importer)
    if package in COMPOSERS or is_command(importer):
        return is_inside(imported, COMPOSERS[package.split(".")[0]])
    if is_inside(imported, EVERYWHERE) or package_of(imported) == package:
        return True
    if package.startswith("pipeline.") and is_inside(imported, IN_ALL_OF_PIPELINE):
        return True
    return package_of(imported) in MAY_IMPORT[package]


def sources() -> list[Path]:
    """Every Python file of the four packages."""
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_imports_follow_the_table() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources()
        for name in sorted(imported_modules(path))
        if not may_import(module_name(path), name)
    ]
    assert not wrong, "\n".join(wrong)


def test_pipeline_takes_only_the_data_set_of_data_preparation() -> None:
    assert may_import("pipeline.data.loader", "data_prep.dataset.manifest")
    assert not may_import("pipeline.data.loader", "data_prep.readers.jsonl")
    assert not may_import("data_prep.dataset.manifest", "pipeline.data.loader")
    assert not may_import("pipeline.run.plan", "pipeline.train")


def circle_in(graph: dict[str, set[str]]) -> list[str] | None:
    """A way through `graph` from a node back to itself, None where there is none."""
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return None


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {module_name(path): imported_modules(path) - {module_name(path)} for path in sources()}
    assert circle_in(graph) is None


def test_no_packages_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in sources():
        module = module_name(path)
        if not is_command(module) and package_of(module) not in COMPOSERS:
            used = {package_of(name) for name in imported_modules(path)}
            graph.setdefault(package_of(module), set()).update(used - {package_of(module)})
    assert circle_in(graph) is None


def test_a_circle_is_found() -> None:
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) is not None


def test_nothing_imports_the_train_script() -> None:
    importers = [
        path.name
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "pipeline.train" in imported_modules(path)
    ]
    assert not importers


def test_no_file_takes_the_name_of_an_installed_package() -> None:
    """`deepspeed pipeline/train.py` puts pipeline/ first on sys.path for its first lines."""
    import importlib.metadata

    taken = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    files = {path.stem for path in (ROOT / "pipeline").glob("*.py")} - {"__init__"}
    assert not files & taken


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("pipeline.predict", ("torch", "deepspeed", "megatron", "mlflow", "transformers")),
        ("pipeline.plan", ("torch", "deepspeed", "megatron", "mlflow", "transformers")),
        ("pipeline.run.config", ("torch", "deepspeed", "megatron", "mlflow", "transformers")),
        ("data_prep.run", ("torch", "deepspeed", "megatron", "mlflow", "transformers", "dask")),
        ("data_prep.explain", ("torch", "deepspeed", "megatron", "mlflow", "transformers", "dask")),
        ("data_prep.dataset.manifest", ("torch", "dask", "pyarrow")),
        ("pipeline.tracking.event_log", ("torch", "mlflow")),
        ("pipeline.checkpoint.manifest", ("torch", "safetensors", "deepspeed", "transformers")),
        ("pipeline.optim.union", ("torch", "deepspeed", "megatron")),
        ("pipeline.tracking.lineage", ("torch", "mlflow", "deepspeed")),
        ("pipeline.report", ("torch", "deepspeed", "megatron", "mlflow", "transformers")),
        ("pipeline.slurm_job", ("torch", "deepspeed", "megatron", "mlflow", "transformers")),
        (
            "pipeline.finetuning.run_config",
            ("torch", "deepspeed", "megatron", "mlflow", "transformers"),
        ),
        ("pipeline.evaluate", ("torch", "deepspeed", "megatron", "mlflow", "transformers")),
        ("model.layers", ("transformers", "deepspeed", "mlflow", "torch._inductor")),
        ("pipeline.pretraining.loop", ("torch._inductor", "mlflow", "scipy", "transformers")),
    ],
)
def test_light_modules_import_nothing_heavy(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("script", ["pipeline/train.py", "pipeline/finetune.py"])
def test_help_of_the_train_script_needs_no_torch(script: str) -> None:
    code = (
        "import runpy, sys; sys.argv = ['train.py', '--help']\n"
        f"try: runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "CONFIG.yaml" in done.stdout
