"""The direction of imports inside air_jax, and what only one file may know."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "air_jax"

# From the bottom to the top: a module imports from lines above its own only. A new module takes
# its place here.
LAYERS = (
    {"distributions", "files", "interruption", "metrics", "models.spatial_transformer", "tables"},
    {"markup", "report_style"},
    {"control_variates", "models.decisions", "render.finite_difference", "render.scene"},
    {"render.primitives", "render.surfaces"},
    {"render.raycast"},
    {"render.mujoco_worker", "render.surface_motion"},
    {"render.mujoco"},
    {"charts", "collapse", "models.modules", "reliability", "scan_policy"},
    {"models.autoencoder", "models.classifier", "models.draw", "models.scene2d", "models.trace"},
    {"models.scene3d"},
    {"models.air", "models.supervised"},
    {"models.air3d"},
    {"models.detection", "objectives"},
    {"estimators", "gradient_noise"},
    {"data.images", "data.prepared", "data.stream"},
    {"data.cache", "data.digits", "data.omniglot"},
    {"data.scenes"},
    {"data.motion", "data.sprites"},
    {"data.dataset"},
    {"data.tabletop"},
    {"parallel", "writer", "checkpoint", "figures"},
    {"export", "figures_estimators", "figures_representation", "figures_runs", "provenance"},
    {"batches", "classification", "refine3d", "train", "trained"},
    {"autoencoder", "draw", "inference", "inverse_graphics", "pose_search", "supervised"},
    {"effort", "evaluate", "evaluate3d", "gallery", "representation", "train3d"},
    {"kinds"},
    {"figures3d", "infer2d", "infer3d", "sections", "seeds"},
    {"infer", "overlay", "pretrained", "report_charts", "report_tables", "scene_view"},
    {"demo_pad", "report_page"},
    {"demo_html", "report_scenes"},
    {"report_scenes3d"},
    {"report_run"},
    {"demo_session"},
    {"demo", "monitor"},
    {"loop", "program"},
    {"main", "report", "sample", "video"},
    {"experiments.arguments", "experiments.processes", "experiments.runs"},
    {"experiments.trials"},
    {"experiments.inflict"},
    {
        "experiments.estimators_report",
        "experiments.faults_report",
        "experiments.generalization_report",
        "experiments.occlusion_report",
        "experiments.parsing_report",
        "experiments.contenders",
        "experiments.representation_report",
        "experiments.scenes3d_report",
        "experiments.realism_report",
        "experiments.tabletop_report",
    },
    {"experiments.compare"},
    {"experiments.estimators", "experiments.generalization", "experiments.reliability"},
    {"experiments.ablation", "experiments.representation"},
    {"experiments.contenders3d"},
    {
        "experiments.faults",
        "experiments.occlusion",
        "experiments.parsing",
        "experiments.realism",
        "experiments.scenes3d",
        "experiments.tabletop",
    },
    {""},  # the package itself: the library's face
)
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}


def _module_name(path: pathlib.Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _imports(tree: ast.AST) -> set[str]:
    """Every module or name that a file imports, in full, wherever it does so."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _own_imports(tree: ast.AST) -> set[str]:
    """The modules of air_jax that a file imports, without `air_jax.`."""
    own = set()
    for name in _imports(tree):
        if name.split(".")[0] != "air_jax":
            continue
        parts = name.split(".")[1:]
        # `from air_jax.metrics import ink_boxes` imports the module, not a module of that name.
        while ".".join(parts) not in MODULES:
            parts = parts[:-1]
        own.add(".".join(parts))
    return own


def _is_package(name: str) -> bool:
    return bool(name) and MODULES[name].name == "__init__.py"


TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}


def test_every_module_has_a_layer():
    modules = {name for name in MODULES if not _is_package(name)}
    assert modules - set(HEIGHT) == set(), "without a layer in LAYERS"
    assert set(HEIGHT) - modules == set(), "in LAYERS, and not in air_jax"


@pytest.mark.parametrize("name", [name for name in MODULES if not _is_package(name)])
def test_imports_point_downwards(name):
    upwards = {other for other in _own_imports(TREES[name]) if HEIGHT[other] >= HEIGHT[name]}
    assert upwards == set(), f"{name} may not import these"


def test_data_knows_nothing_else_of_the_program():
    for name, tree in TREES.items():
        if name.startswith("data."):
            others = {other for other in _own_imports(tree) if not other.startswith("data.")}
            allowed = {"files", "metrics", "render.scene", "render.raycast"}
            assert others <= allowed, name


@pytest.mark.parametrize("name", list(MODULES))
def test_subpackages_run_nothing_at_import_and_nothing_imports_the_configs(name):
    if _is_package(name):
        assert all(isinstance(node, ast.Expr) for node in TREES[name].body), "only a docstring"
    roots = {imported.split(".")[0] for imported in _imports(TREES[name])}
    assert not roots & {"configs", "tests", "benchmarks"}


def test_only_main_defines_flags():
    flags = {
        name
        for name, tree in TREES.items()
        if any(
            imported.startswith(("absl.flags", "absl.app", "ml_collections"))
            for imported in _imports(tree)
        )
    }
    assert flags == {"main"}


def test_only_parallel_knows_pmap_and_placement():
    known = {"pmap", "shard_map", "Mesh", "NamedSharding", "PartitionSpec", "device_put"}
    knows = set()
    for name, tree in TREES.items():
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        used |= {imported.rsplit(".", 1)[-1] for imported in _imports(tree)}
        if used & known:
            knows.add(name)
    assert knows == {"parallel"}


def test_nothing_can_unpickle_a_file():
    unpicklers = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for name, tree in TREES.items():
        roots = {imported.split(".")[0] for imported in _imports(tree)}
        assert not roots & unpicklers, name
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called.rpartition(".")[2] not in ("read_pickle", "__import__", "eval", "exec")
            if called in ("np.load", "numpy.load"):
                refuses = any(
                    keyword.arg == "allow_pickle" and ast.unparse(keyword.value) == "False"
                    for keyword in node.keywords
                )
                assert refuses, f"{name}, line {node.lineno}: np.load without allow_pickle=False"


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, air_jax; print(sorted({'jax', 'numpy', 'matplotlib'} & set(sys.modules)))"
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    assert (process.stdout, process.stderr) == ("[]\n", "")
