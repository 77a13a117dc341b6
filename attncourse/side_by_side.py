"""Code to be read: two functions beside each other, with what does the same on one line."""

from __future__ import annotations

import ast
import html
import importlib.resources
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib


def function(path: str, name: str) -> str:
    """Return the text of a function of this package, decorators left out.

    Its module is not imported, so that a kernel can be read where there is no Triton.

    Args:
        path: The file inside the package, such as "kernels/flash.py".
        name: The function.

    Raises:
        LookupError: The file has no such function.
    """
    text = importlib.resources.files("attncourse").joinpath(path).read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
            return "\n".join(lines) + "\n"
    raise LookupError(f"side_by_side.function: {path} has no function {name}")


def helpers(code: str, path: str) -> dict[str, str]:
    """Return what the helpers that a function calls do, in the words of their docstrings.

    Args:
        code: The text of a function.
        path: The file inside the package that defines the helpers.

    Returns:
        Name -> first sentence, in the order in which they are called.
    """
    text = importlib.resources.files("attncourse").joinpath(path).read_text(encoding="utf-8")
    said = {
        node.name: (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef)
    }
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
    return {name: said[name] for name in names if name in said}


# From viridis, half way to white: dark paper would swallow its dark end. Neighbours lie far apart.
STEPS = [
    ",".join(str(round(127.5 * (1 + part))) for part in matplotlib.colormaps["viridis"](place)[:3])
    for place in (0.28, 0.97, 0.02, 0.70, 0.40, 0.86, 0.54)
]


# JupyterLab shows a stored page without every style that it does not know, var() and calc() among
# them, and others show it without any: what comes first has to do there.
CODE = "font-family:monospace;font-family:var(--jp-code-font-family,monospace)"
WORDS = "font-family:sans-serif;font-family:var(--jp-ui-font-family,sans-serif)"
PALE = "color:#707070;color:var(--jp-ui-font-color2,#555)"


@dataclass(frozen=True)
class Line:
    """A line of code: its text, and the name that it sets or the statement that it begins."""

    text: str
    key: str = ""


class SideBySide:
    """Two functions in two columns.

    Lines that set the same name in the same order share a row and are marked "=". What only one
    of them needs stands alone, with a note beside it where there is one. A step has one colour in
    both columns: strong where they do the same, a mere edge where one stands alone.
    """

    def __init__(
        self,
        left: str,
        right: str,
        *,
        titles: tuple[str, str],
        same: Mapping[str, str] | None = None,
        steps: Mapping[str, str] | None = None,
        notes: Mapping[str, str] | None = None,
    ):
        """Pair the lines.

        Args:
            left: The text of a function.
            right: The text of another.
            titles: What stands over the columns.
            same: Where names differ: the left one -> the right one. A line goes by the name that
                it sets ("acc", and "acc *=" if it updates it), a loop by "for tile", a condition
                by "if causal", a call by its function, a return by "return".
            steps: The beginning of a left line -> the heading that stands over it.
            notes: The beginning of a line -> what stands beside it if the other side is empty.

        Raises:
            ValueError: A step or a note that fits no line.
        """
        self.titles, self.steps, self.notes = titles, dict(steps or {}), dict(notes or {})
        ours, theirs = _lines(left), _lines(right)
        every = [line.text.strip() for line in (*ours, *theirs)]
        for start in (*self.steps, *self.notes):
            if not any(text.startswith(start) for text in every):
                raise ValueError(f"side_by_side.SideBySide: no line begins with {start!r}")
        self.rows = _aligned(ours, theirs, dict(same or {}))

    def __repr__(self) -> str:
        width = max(len(left.text) for left, _, _ in self.rows)
        lines, number = [f"{self.titles[0]:<{width}}     {self.titles[1]}"], 0
        for left, right, matched in self.rows:
            if heading := _starting(self.steps, left):
                number += 1
                lines.append(f"-- {number} · {heading}")
            sign = "=" if matched else " "
            lines.append(f"{left.text:<{width}}  {sign}  {right.text}".rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(
            f'<th scope="col" style="text-align:left;width:49%">{html.escape(title)}</th>{gap}'
            for title, gap in zip(self.titles, ('<th style="width:2%"></th>', ""), strict=True)
        )
        rows, step, number = [], "127,127,127", 0
        for left, right, matched in self.rows:
            if heading := _starting(self.steps, left):
                step, number = STEPS[number % len(STEPS)], number + 1
                rows.append(
                    '<tr style="background:none"><th colspan="3" scope="rowgroup" style="text-'
                    f"align:left;padding:0.9em 0 0.2em 6px;border-left:5px solid rgb({step});"
                    f'{WORDS}">{number} · {html.escape(heading)}</th></tr>'
                )
            # Translucent: the text keeps the theme's colour, on light and on dark paper.
            tint = f"rgba({step},0.3)" if matched else "none"
            rows.append(
                f'<tr style="background:{tint}">{self._cell(left, right, step)}'
                f'<td style="text-align:center;padding:1px">{"=" if matched else ""}</td>'
                f"{self._cell(right, left, step)}</tr>"
            )
        return (
            f'<table style="table-layout:fixed;width:100%;{CODE};font-size:12px;line-height:1.35">'
            '<caption style="text-align:left">Lines marked = do the same; one colour, one step.'
            f"</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        )

    def _cell(self, line: Line, other: Line, step: str) -> str:
        style = "text-align:left;vertical-align:top;padding:1px 4px"
        if line.text:
            style += f";border-left:5px solid rgba({step},0.8)"
        if not line.text:
            note = html.escape(_starting(self.notes, other))
            return f'<td style="{style};{WORDS};font-style:italic;{PALE}">{note}</td>'
        code = line.text.strip()
        indent = len(line.text) - len(line.text.lstrip())
        code, mark, comment = code.partition("  # ")
        shown = html.escape(code)
        name = html.escape(line.key.removeprefix("for ").removeprefix("if ").split(" ")[0])
        if name and name != "return":
            shown = shown.replace(name, f"<b>{name}</b>", 1)
        if mark:
            shown += f'<span style="{PALE}">&nbsp; # {html.escape(comment)}</span>'
        # A long line goes on further to the right, as code does; a letter is 0.6 em wide.
        hang = 0.6 * (indent + 4)
        style += f";padding-left:{hang + 0.3:.1f}em;text-indent:-{hang:.1f}em"
        return f'<td style="{style};overflow-wrap:break-word">{"&nbsp;" * indent}{shown}</td>'


def _starting(texts: Mapping[str, str], line: Line) -> str:
    """Return the text whose key the line begins with, the longest if several do."""
    code = line.text.strip()
    fitting = [start for start in texts if code and code.startswith(start)]
    return texts[max(fitting, key=len)] if fitting else ""


def _lines(text: str) -> list[Line]:
    """Return the lines of a function's body without its docstring."""
    text = textwrap.dedent(text)
    node = ast.parse(text).body[0]
    assert isinstance(node, ast.FunctionDef)
    body = node.body[1:] if ast.get_docstring(node) else node.body
    keys: dict[int, str] = {}
    for statement in ast.walk(ast.Module(body, [])):
        if isinstance(statement, ast.stmt):
            keys.setdefault(statement.lineno, _key(statement))
    written = text.splitlines()[body[0].lineno - 1 : node.end_lineno]
    numbered = enumerate(textwrap.dedent("\n".join(written)).splitlines(), body[0].lineno)
    return [Line(line, keys.get(number, "")) for number, line in numbered if line.strip()]


def _key(statement: ast.stmt) -> str:
    match statement:
        case ast.Assign(targets=[target]):
            return _name(target)
        case ast.AugAssign(target=target):
            operator = ast.unparse(statement).removeprefix(ast.unparse(target)).split()[0]
            return f"{_name(target)} {operator}"
        case ast.For(target=target):
            return f"for {_name(target)}"
        case ast.If(test=test):
            return f"if {_name(test)}"
        case ast.Return():
            return "return"
        case ast.Expr(value=ast.Call(func=called)):
            return ast.unparse(called)
    return ""


def _name(node: ast.expr) -> str:
    """Return the first name in an expression."""
    return next((part.id for part in ast.walk(node) if isinstance(part, ast.Name)), "")


def _aligned(left: list[Line], right: list[Line], same: dict[str, str]) -> list[tuple]:
    """Return rows (left, right, whether they match): a longest common subsequence of the keys."""
    keys = [same.get(line.key, line.key) for line in left]
    longest = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i in reversed(range(len(left))):
        for j in reversed(range(len(right))):
            longest[i][j] = (
                1 + longest[i + 1][j + 1]
                if keys[i] and keys[i] == right[j].key
                else max(longest[i + 1][j], longest[i][j + 1])
            )
    rows: list[tuple[Line, Line, bool]] = []
    alone: tuple[list[Line], list[Line]] = ([], [])

    def flush():
        # First lines stand beside first lines, and whatever is left stands alone.
        height = max(map(len, alone))
        padded = [side + [Line("")] * (height - len(side)) for side in alone]
        rows.extend((*pair, False) for pair in zip(*padded, strict=True))
        for side in alone:
            side.clear()

    i = j = 0
    while i < len(left) or j < len(right):
        if i < len(left) and j < len(right) and keys[i] and keys[i] == right[j].key:
            flush()
            rows.append((left[i], right[j], True))
            i, j = i + 1, j + 1
        elif j == len(right) or (i < len(left) and longest[i + 1][j] >= longest[i][j + 1]):
            alone[0].append(left[i])
            i += 1
        else:
            alone[1].append(right[j])
            j += 1
    flush()
    return rows
