"""Writes the `if TYPE_CHECKING` block of impsamp/__init__.py from its table; `make export` does."""

import ast

MARK = "if TYPE_CHECKING:"


def table_of(text):
    "package or module -> its public names, from the assignment to _PUBLIC."
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "_PUBLIC":
            table = ast.literal_eval(node.value)
            return {module: names.split() for module, names in table.items()}
    raise ValueError("impsamp/__init__.py has no table _PUBLIC")


def place(name):
    "The linter's order of imports: constants, classes, functions."
    return not name.isupper(), not name[0].isupper(), name


def with_block(text):
    """`text` of impsamp/__init__.py with the block that its table asks for.

    `name as name` re-exports."""
    start = text.index(MARK)
    lines = [text[start:].splitlines()[0]]
    for module, names in sorted(table_of(text).items()):
        for name in sorted(names, key=place):
            lines.append(f"    from impsamp.{module} import {name} as {name}")
    return text[:start] + "\n".join(lines) + "\n"
