"""How large a folder of Python is: files, lines, and lines of code.

`python -m ci.code_lines [folder]` counts `app` by default. A code line is a physical line that holds code: not blank,
not a comment alone, not part of a docstring.
"""

import ast
import sys
import tokenize
from io import StringIO
from pathlib import Path

NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
}  # fmt: skip
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(source: str) -> int:
    """The lines of code of a file. Raises SyntaxError."""
    code: set[int] = set()
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type not in NO_CODE:
            code |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node):
            docstring = node.body[0]
            code -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return len(code)


if __name__ == "__main__":
    sources = [path.read_text() for path in Path(sys.argv[1] if len(sys.argv) > 1 else "app").rglob("*.py")]
    print(f"files          {len(sources):>8}")
    print(f"physical lines {sum(len(source.splitlines()) for source in sources):>8}")
    print(f"code lines     {sum(map(code_lines, sources)):>8}")
