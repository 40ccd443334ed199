"""The house's laws, read from the source with ast: imports point one way, and importing stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "audio_ssl"
FLOORS = {
    "errors": 0, "config": 0, "geometry": 0, "tensors": 0, "rng": 0, "checkpoint": 0,
    "precision": 0,
    "data": 1, "model": 1, "objective": 1,
    "interop": 2,
    "train": 3, "inference": 3, "evaluate": 3,
    "probe": 4,
    "cli": 5, "__main__": 6,
}  # fmt: skip
GROUND_ORDER = (
    "errors",
    "geometry",
    "rng",
    "config",
    "tensors",
    "checkpoint",
    "precision",
)  # later ones may import earlier ones
LAZY_NAMES = {"__init__"}  # the package's own __init__ names its public homes as strings
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
LOOP_FUNCTION_LINES = 100


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(path: Path):
    """(line, room) of every import of our own package, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports must be absolute"
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if name == "audio_ssl" or name.startswith("audio_ssl."):
                yield node.lineno, room_of(name)


def broken_rule(room: str, other: str) -> str | None:
    if other in (room, "__init__"):
        return None
    if FLOORS[other] > FLOORS[room]:
        return "an import must not point upwards"
    if FLOORS[other] == FLOORS[room] == 0 and GROUND_ORDER.index(other) > GROUND_ORDER.index(room):
        return f"on the ground floor the order is {' < '.join(GROUND_ORDER)}"
    if FLOORS[other] == FLOORS[room] > 0:
        return "siblings must not import one another"
    return None


def test_imports_point_one_way():
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("audio_ssl", *path.relative_to(PACKAGE).with_suffix("").parts))
        room = room_of(module)
        if room in LAZY_NAMES:
            continue
        for line, other in imports_of(path):
            rule = broken_rule(room, other)
            if rule:
                faults.append(f"{path.relative_to(PACKAGE.parent)}:{line}: {room} imports {other}: {rule}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("room", "other"), [("data", "model"), ("model", "train"), ("config", "tensors"), ("train", "inference")]
)
def test_the_rule_itself_bites(room, other):
    assert broken_rule(room, other)


def test_files_and_functions_stay_short():
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > MAX_FILE_LINES:
            faults.append(f"{path}: more than {MAX_FILE_LINES} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                limit = LOOP_FUNCTION_LINES if (path.stem, node.name) == ("loop", "train") else MAX_FUNCTION_LINES
                length = node.end_lineno - node.lineno + 1
                if length > limit:
                    faults.append(f"{path}:{node.lineno}: {node.name} has {length} lines, more than {limit}")
    assert not faults, "\n".join(faults)


def loaded_modules(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(out.stdout.split())


def test_import_of_the_package_is_light():
    loaded = loaded_modules("import audio_ssl")
    assert not loaded & {"torch", "numpy", "librosa", "fairseq2", "pyarrow", "pydantic", "soundfile"}


def test_model_imports_with_torch_alone():
    loaded = loaded_modules("import audio_ssl.model.encoder")
    assert "torch" in loaded
    assert not loaded & {"torchaudio", "soundfile", "librosa", "pyarrow", "fairseq2", "transformers"}


def test_help_needs_no_torch():
    loaded = loaded_modules("import audio_ssl.cli.main")
    assert not loaded & {"torch", "librosa", "fairseq2", "matplotlib", "transformers"}
