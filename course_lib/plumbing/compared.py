"""What the test of an exercise compared: what was got beside what was wanted, read from the source of a lambda."""

import ast
import linecache
import operator
from collections.abc import Callable

ALIKE = ("allclose", "array_equal", "equal", "isclose", "same")
COMPARISONS = {
    ast.Eq: (operator.eq, ""),
    ast.Is: (operator.is_, ""),
    ast.NotEq: (operator.ne, "another than "),
    ast.IsNot: (operator.is_not, "another than "),
    ast.Lt: (operator.lt, "less than "),
    ast.LtE: (operator.le, "at most "),
    ast.Gt: (operator.gt, "more than "),
    ast.GtE: (operator.ge, "at least "),
}
MIRRORED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}


def compared(test: Callable[[], object]) -> str:
    """Return what a test that is not true compared, such as "output_side(572) is 0, wanted 388".

    The parts of the test are computed once more.

    Args:
        test: A lambda without arguments.

    Returns:
        One line; "" where the source of the test cannot be read, or its parts do not compute by themselves.
    """
    try:
        body = _body(test)
        cells = [cell.cell_contents for cell in test.__closure__ or ()]
        names = test.__globals__ | dict(zip(test.__code__.co_freevars, cells, strict=True))
        return _told(body, lambda part: eval(compile(ast.Expression(part), "<check>", "eval"), names)) if body else ""
    except Exception:  # whatever a student's function does a second time: the exercise is not solved, and that is told
        return ""


def _body(test: Callable[[], object]) -> ast.expr | None:
    """Return the expression of a lambda: of the smallest one in its file that holds all places of its code."""
    source = "".join(linecache.getlines(test.__code__.co_filename))
    places = [
        (line, column) for line, _, column, end in test.__code__.co_positions() if line and column is not None and end
    ]
    bodies = [node.body for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Lambda)]
    holding = [
        body
        for body in bodies
        if all((body.lineno, body.col_offset) <= place <= (body.end_lineno, body.end_col_offset) for place in places)
    ]
    return max(holding, key=lambda body: (body.lineno, body.col_offset), default=None) if places else None


def _told(test: ast.expr, value: Callable[[ast.expr], object]) -> str:
    """Return what a test that is not true compared; `value` computes a part of it."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return next((_told(part, value) for part in test.values if not value(part)), "")
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return f"{_text(test.operand)} is {bool(value(test.operand))}, wanted False"
    if isinstance(test, ast.Compare):
        return _compared(test, value)
    if isinstance(test, ast.Call) and _name(test.func) in ALIKE:
        pair = test.args[:2] if len(test.args) > 1 else [test.func.value, *test.args]
        return _side_by_side(_text(pair[0]), *(value(part) for part in pair))
    return f"{_text(test)} is {_shown(value(test))}, wanted True"


def _compared(test: ast.Compare, value: Callable[[ast.expr], object]) -> str:
    """Return the first comparison of a chain that does not hold."""
    parts = [test.left, *test.comparators]
    values = [value(part) for part in parts]
    for number, kind in enumerate(map(type, test.ops)):
        holds, words = COMPARISONS[kind]
        got, wanted = values[number : number + 2]
        if not holds(got, wanted):
            part, other = parts[number : number + 2]
            if isinstance(part, ast.Constant):  # 0.2 < share: the share is what was got
                words = COMPARISONS[MIRRORED.get(kind, kind)][1]
                part, got, wanted = other, wanted, got
            elif kind in (ast.Lt, ast.LtE) and _name(getattr(part, "func", part)) == "abs":
                apart = part.args[0] if part.args else part.func.value
                if isinstance(apart, ast.BinOp) and isinstance(apart.op, ast.Sub | ast.Add):  # abs(got - wanted) < 1e-6
                    sign = 1 if isinstance(apart.op, ast.Sub) else -1
                    return _side_by_side(_text(apart.left), value(apart.left), sign * value(apart.right))
            if not words:
                return _side_by_side(_text(part), got, wanted)
            return f"{_text(part)} is {_shown(got)}, wanted {words}{_shown(wanted)}"
    return ""


def _side_by_side(text: str, got: object, wanted: object) -> str:
    """Return what was got beside what was wanted; of two large tensors of one shape the largest difference."""
    shapes = [tuple(getattr(one, "shape", ())) for one in (got, wanted)]
    shown = [_shown(one) for one in (got, wanted)]
    if shown[0] == shown[1] and shapes[0] and shapes[0] == shapes[1]:
        return f"{text} is off by {_shown(abs(got - wanted).max())} at its worst pixel or number"
    return f"{text} is {shown[0]}, wanted {shown[1]}"


def _name(function: ast.expr) -> str:
    """Return the last name of a function: allclose of torch.allclose."""
    return getattr(function, "attr", getattr(function, "id", ""))


def _text(part: ast.expr, most: int = 60) -> str:
    """Return the source of a part, cut where it is long."""
    return _cut(ast.unparse(part), most)


def _shown(value: object) -> str:
    """Return a value in a few words: a large tensor by its shape."""
    if hasattr(value, "numel") or hasattr(value, "shape"):
        size = value.numel() if callable(getattr(value, "numel", None)) else value.size
        if size > 12:
            return f"a tensor {tuple(value.shape)}"
        value = value.tolist()
    return _cut(repr(_rounded(value)), 90)


def _rounded(value: object) -> object:
    """Return a number, or the numbers of a list, with six digits."""
    if isinstance(value, list | tuple):
        return type(value)(map(_rounded, value)) if type(value) in (list, tuple) else value
    return float(f"{value:.6g}") + 0.0 if type(value) is float else value  # -0.0 is shown as 0.0


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
