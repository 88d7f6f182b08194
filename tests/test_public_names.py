"""What one module takes from another is what that one offers."""

import ast
from pathlib import Path

import ntk_dist

ROOT = Path(ntk_dist.__file__).parent


def read_modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


MODULES = dict(read_modules())


def offered(tree):
    """The names in ``__all__``, or None where there is none."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if getattr(targets[0], "id", None) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


def taken():
    """Who imports which name from which module of the package; whole modules are no names."""
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in MODULES:
                names = {alias.name for alias in node.names}
                yield name, node.module, {n for n in names if f"{node.module}.{n}" not in MODULES}


def test_names_that_other_modules_import_are_offered():
    offers = {name: offered(tree) for name, tree in MODULES.items()}
    strays = {
        (name, module, *sorted(names - offers[module]))
        for name, module, names in taken()
        if offers[module] is not None and not names <= offers[module]
    }
    assert strays == set()
    assert sum(offer is not None for offer in offers.values()) > 200
