"""Prints how large a folder of Python is: files, code lines, slivers, long files, imports.

`python -m ci.code_lines [folder]` counts `app` by default. A code line is a physical line that holds code: not blank,
not a comment alone, not part of a docstring.
"""

import ast
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

SHORT_LINES, LONG_LINES = 40, 350  # physical lines; below is a sliver, above is too long
NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
}  # fmt: skip
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Size:
    """The size of one file, in lines."""

    path: Path
    physical: int
    code: int
    imports: int


def lines_of(node: ast.AST) -> set[int]:
    """Return the numbers of the lines that a statement covers."""
    return set(range(node.lineno, node.end_lineno + 1))  # type: ignore[attr-defined]


def docstrings(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the docstrings of a module, its classes and its functions."""
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node):
            yield node.body[0]


def size_of(path: Path) -> Size:
    """Count one file. Raises SyntaxError."""
    source = path.read_text()
    tree = ast.parse(source)
    code: set[int] = set()
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type not in NO_CODE:
            code |= set(range(token.start[0], token.end[0] + 1))
    for docstring in docstrings(tree):
        code -= lines_of(docstring)
    imports: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= lines_of(node)
    return Size(path, len(source.splitlines()), len(code), len(imports))


def report(folder: Path) -> str:
    """Return the counts for all Python files below a folder, one per line."""
    sizes = [size_of(path) for path in sorted(folder.rglob("*.py"))]
    code, imports = sum(size.code for size in sizes), sum(size.imports for size in sizes)
    facts = {
        "files": len(sizes),
        "physical lines": sum(size.physical for size in sizes),
        "code lines": code,
        f"files under {SHORT_LINES} lines": sum(size.physical < SHORT_LINES for size in sizes),
        f"files over {LONG_LINES} lines": sum(size.physical > LONG_LINES for size in sizes),
        "share of import lines": f"{imports / code:.1%}" if code else "-",
    }
    return "\n".join(f"{name:24}{value:>8}" for name, value in facts.items())


if __name__ == "__main__":
    print(report(Path(sys.argv[1] if len(sys.argv) > 1 else "app")))
