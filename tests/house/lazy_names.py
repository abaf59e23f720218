"""Writes the `if TYPE_CHECKING` block of impsamp/__init__.py from its table of lazy names: `make export` runs it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
MARK = "if TYPE_CHECKING:"


def with_block(text):
    "`text` of impsamp/__init__.py with the block that its table asks for; `name as name` re-exports."
    head = text[: text.index(MARK)]
    comment = text[text.index(MARK) :].splitlines()[0]
    table = {}
    exec(
        compile(head.replace("from typing import TYPE_CHECKING", ""), "__init__", "exec"),
        {"__name__": "impsamp"},
        table,
    )
    lines = [comment]
    for module, names in table["_PUBLIC"].items():
        source = "samplers.enumeration" if module == "enumeration" else module
        lines += [
            f"    from impsamp.{source} import {name} as {name}" for name in sorted(names.split())
        ]
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    path = ROOT / "impsamp" / "__init__.py"
    path.write_text(with_block(path.read_text()))
