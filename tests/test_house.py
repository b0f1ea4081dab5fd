"""The house rules: what a start costs, and who may know whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "siamscope"

# Rooms that know tensors only, and what each may import of the package.
MAY_IMPORT = {
    "objectives": set(),
    "gradients": {"objectives"},
    "collapse": set(),
    "dynamics": set(),
    "views": set(),
    "networks": {"files"},
    "evaluation": set(),
    "report": {"files", "dynamics"},
    "data": set(),
    "training": {
        "objectives", "gradients", "collapse", "dynamics", "views", "networks", "evaluation", "data", "recipe",
        "sections", "methods", "row", "rundir",
    },
    "workflow": {
        "training", "objectives", "gradients", "collapse", "dynamics", "views", "networks", "evaluation", "data",
        "recipe", "sections", "methods", "row", "rundir", "report", "files", "options",
    },
    "claims": {
        "training", "objectives", "gradients", "collapse", "dynamics", "views", "networks", "evaluation", "data",
        "recipe", "sections", "methods", "row", "rundir", "report", "files", "workflow",
    },
}  # fmt: skip


def imported(room: str) -> set[str]:
    """Top-level names of the package that a room's files import."""
    found = set()
    for file in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "siamscope":
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("siamscope."):
                found.add(node.module.split(".")[1])
            elif isinstance(node, ast.Import):
                found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("siamscope.")}
    return found - {room, "__version__"}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_who_knows_whom(room):
    assert imported(room) <= MAY_IMPORT[room]


def test_every_room_has_a_rule():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert rooms == set(MAY_IMPORT)


@pytest.mark.parametrize(
    "code",
    [
        "import siamscope",
        "from siamscope.cli import run; run(['--help'])",
        "import siamscope.recipe, siamscope.rundir, siamscope.options",
        "import siamscope.collapse",
        "import siamscope.dynamics",
        "from siamscope.cli import run; run(['dynamics', 'check', '--only', 'A8'])",
        "import siamscope.report",
    ],
)
def test_torch_is_not_imported(code):
    check = f"import sys\n{code}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, cwd=ROOT)


def test_the_docs_show_the_table_of_methods():
    """docs/methods.md holds the table as `siamscope methods --markdown` prints it; the README names every method."""
    from siamscope.methods import METHODS
    from siamscope.workflow.table import markdown

    assert markdown() in (ROOT / "docs" / "methods.md").read_text()
    readme = (ROOT / "README.md").read_text()
    assert not [name for name in METHODS if f"`{name}`" not in readme]


def test_no_file_is_too_long():
    lines = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py")}
    assert not {name: count for name, count in lines.items() if count > 400}
