"""Works out the ledger's formulas: arithmetic over named numbers."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping


def evaluate(formula: str, parameters: Mapping[str, float | str]) -> float:
    """Evaluate arithmetic over named numbers: + - * / // % **, and a few functions of one number.

    Args:
        formula: Such as "n*n*bytes/1e9".
        parameters: A number for each name in the formula.

    Raises:
        ValueError: Anything in the formula but arithmetic, or a name without a number.
    """
    return _value(ast.parse(formula, mode="eval").body, parameters)


_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_SIGNS: dict[type[ast.unaryop], Callable[[float], float]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    function.__name__: function
    for function in (
        *(math.sqrt, math.log, math.log2, math.log10, math.exp),
        *(math.ceil, math.floor, abs, round),
    )
}


def _value(node: ast.expr, parameters) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name) if isinstance(parameters.get(name), (int, float)):
            return parameters[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, parameters), _value(right, parameters))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _SIGNS:
            return _SIGNS[type(op)](_value(operand, parameters))
        case ast.Call(func=ast.Name(id=name), args=[part], keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](_value(part, parameters))
    raise ValueError(
        f"claims.evaluate: {ast.unparse(node)!r} is neither arithmetic nor one of "
        f"{sorted(parameters)}"
    )
