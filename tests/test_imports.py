"""Who may import whom: the rules of the layout, held by reading the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "textseg"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)

MODEL_LIBRARIES = {"transformers", "open_clip", "timm", "segment_anything", "sam2"}
BUILDERS = ("cli", "demo", "label", "evaluate", "train")
ORDER = [
    "errors",
    "types",
    "protocols",
    "geometry",
    "image",
    "language",
    "propose",
    "prompt",
    "segment",
    "redraw",
    "rank",
    "choose",
    "result",
    "pipeline",
]
"""The data's way: a module imports only what stands before it."""


def imported(path: Path) -> set[str]:
    """Return the dotted names of all modules that a file imports, also inside functions and for types only."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        else:
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return names


def at_import_time(path: Path) -> set[str]:
    """Return the modules that importing the file alone imports: outside functions and TYPE_CHECKING."""
    names: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def part(path: Path) -> str:
    """Return a file's place in the package: "models", "train", "rank" …"""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return name


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def touches(names: set[str], module: str) -> bool:
    return any(name == module or name.startswith(module + ".") for name in names)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_only_models_and_train_know_the_model_libraries(path: Path) -> None:
    found = {name.split(".")[0] for name in imported(path)} & MODEL_LIBRARIES
    assert not found or part(path) in ("models", "train"), f"{relative(path)} imports {found}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_only_build_imports_models(path: Path) -> None:
    if touches(imported(path), "textseg.models"):
        assert part(path) in ("models", "train", "build"), f"{relative(path)} imports textseg.models"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_only_the_doors_import_build(path: Path) -> None:
    if touches(imported(path), "textseg.build"):
        allowed = (*BUILDERS, "__init__")  # __init__ names it for type checkers and imports it lazily
        assert part(path) in allowed, f"{relative(path)} imports textseg.build"
        assert part(path) != "__init__" or not touches(at_import_time(path), "textseg.build")


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_imports_a_door(path: Path) -> None:
    for door in ("cli", "demo", "label", "evaluate"):
        inside = part(path) in (door, "cli")  # the command line opens the other doors
        inside = inside or (part(path), door) == ("demo", "label")  # the page has a tab that labels
        assert inside or not touches(imported(path), f"textseg.{door}"), f"{relative(path)} imports {door}"


@pytest.mark.parametrize("name", ORDER)
def test_the_stages_import_one_way(name: str) -> None:
    names = at_import_time(PACKAGE / f"{name}.py")
    later = [other for other in ORDER[ORDER.index(name) :] if touches(names, f"textseg.{other}")]
    assert later == [], f"{name} imports what comes after it: {later}"


def test_errors_and_types_import_nothing_above() -> None:
    def own(name: str) -> set[str]:
        return {n.split(".")[1] for n in imported(PACKAGE / f"{name}.py") if n.startswith("textseg.")}

    assert own("errors") == set()
    assert own("types") == {"errors"}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_is_one_noun(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= 420, f"{relative(path)} has {lines} lines"


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement", ["import textseg", "import textseg.cli", "import textseg.pipeline, textseg.config"]
)
def test_imports_leave_torch_out(statement: str) -> None:
    heavy = {"torch", "transformers", "open_clip", "gradio", "supervision", "pycocotools"}
    assert loaded_by(statement) & heavy == set()


def test_import_textseg_is_light() -> None:
    assert loaded_by("import textseg") & {"numpy", "cv2", "PIL", "yaml"} == set()


def test_public_names_are_there() -> None:
    import textseg

    wanted = {"OpenPicture", "Pipeline", "Result", "TextsegError", "__version__", "load"}
    assert wanted <= set(textseg.__all__)
    for name in textseg.__all__:
        assert getattr(textseg, name) is not None
    assert set(dir(textseg)) == set(textseg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'sgement'"):
        _ = textseg.sgement  # type: ignore[attr-defined]
