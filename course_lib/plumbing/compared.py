"""The test of an exercise, run once: whether it is true, and what was got beside what was wanted."""

import ast
import linecache
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CellType, CodeType, FunctionType

import numpy as np

ALIKE = ("allclose", "array_equal", "equal", "isclose", "same")
COMPARISONS = {
    ast.Eq: (operator.eq, ""),
    ast.Is: (operator.is_, ""),
    ast.NotEq: (operator.ne, "anything but "),
    ast.IsNot: (operator.is_not, "anything but "),
    ast.Lt: (operator.lt, "less than "),
    ast.LtE: (operator.le, "at most "),
    ast.Gt: (operator.gt, "more than "),
    ast.GtE: (operator.ge, "at least "),
    ast.In: (lambda one, several: one in several, "one of "),
    ast.NotIn: (lambda one, several: one not in several, "none of "),
}
LARGE = 12
"""Numbers in a tensor up to which they are shown."""

MIRRORED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}


def compared(test: Callable[[], object]) -> tuple[bool, str]:
    """Run a test, and return whether it is true and what it compared, such as "output_side(572) is 0, wanted 388".

    The parts of a lambda whose source can be read are computed one by one, in Python's order, each once as in a call.

    Args:
        test: Called without arguments.

    Returns:
        Whether it is true; one line, "" where it is true, has no source that can be read, or cannot be told.

    Raises:
        Exception: What the test raises.
    """
    written = _written(test)
    if written is None:
        return bool(test()), ""
    try:
        _run(written.body, _Parts(test))
    except _Untrue as untrue:
        return False, untrue.told
    return True, ""


class _Untrue(Exception):
    """A part of a test is not true; `told` says what it compared."""

    def __init__(self, tell: Callable[..., str], *values: object):
        super().__init__()
        try:
            self.told = " ".join(tell(*values).split())
        except Exception:  # a value that cannot be shown: that the exercise is not solved is told without it
            self.told = ""


def _written(test: Callable[[], object]) -> ast.Lambda | None:
    """Return a lambda as it is written in its file: the one whose code is that of the test."""
    code = getattr(test, "__code__", None)
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename)))
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno]
        versions = (imports, ())  # a notebook compiles each statement of a cell by itself
        found = [
            node
            for node in nodes
            if any(_code(node, code.co_freevars, one).replace(co_flags=code.co_flags) == code for one in versions)
        ]
    except Exception:  # no function of Python's, or a source that is gone or has changed
        return None
    # a name that a part binds would be unknown to the next
    return found[0] if found and not any(isinstance(node, ast.NamedExpr) for node in ast.walk(found[0])) else None


def _code(function: ast.Lambda, free: Iterable[str], imports: Iterable[ast.stmt] = ()) -> CodeType:
    """Return the code of a lambda inside a function with the local names `free`.

    Calls of functions of a module are compiled otherwise where the file imports it: so the file's imports are needed.
    """
    module = ast.parse("def around():\n" + "".join(f" {name} = None\n" for name in free) + " return None")
    module.body[0].body[-1].value = function
    module.body[:0] = imports
    code = compile(ast.fix_missing_locations(module), "<check>", "exec", dont_inherit=True)
    for _ in range(2):
        code = next(constant for constant in code.co_consts if isinstance(constant, CodeType))
    return code


class _Parts:
    """Computes parts of a test with the names that the test knows."""

    def __init__(self, test: FunctionType):
        code, defaults = test.__code__, test.__defaults__ or ()
        named = code.co_varnames[: code.co_argcount]
        known = dict(zip(named[len(named) - len(defaults) :], defaults, strict=True)) | (test.__kwdefaults__ or {})
        self.globals = test.__globals__
        self.cells = {name: CellType(value) for name, value in known.items()}
        self.cells |= dict(zip(code.co_freevars, test.__closure__ or (), strict=True))

    def value(self, part: ast.expr, *computed: object) -> object:
        """Return what a part is; in it the names _0, _1, ... are values computed before."""
        cells = self.cells | {f"_{number}": CellType(value) for number, value in enumerate(computed)}
        nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        code = _code(ast.Lambda(nothing, part), cells)
        return FunctionType(code, self.globals, closure=tuple(cells[name] for name in code.co_freevars))()


def _run(test: ast.expr, parts: _Parts) -> None:
    """Compute a test; raise _Untrue where it is not true."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        for part in test.values:
            _run(part, parts)
    elif isinstance(test, ast.Compare):
        _compare(test, parts)
    elif isinstance(test, ast.Call) and _name(test.func) in ALIKE and _plain(test):
        _alike(test, parts)
    else:
        negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        part = test.operand if negated else test
        value = parts.value(part)

        def tell() -> str:
            return f"{_text(part)} is {_shown(value)}, wanted {not negated}"

        with _or(tell):
            holds = bool(value) != negated
        if not holds:
            raise _Untrue(tell)


@contextmanager
def _or(tell: Callable[..., str], *values: object) -> Iterator[None]:
    """Where values cannot be compared (None with a number), say what they are rather than that."""
    try:
        yield
    except Exception:
        untrue = _Untrue(tell, *values)
        if untrue.told:
            raise untrue from None
        raise


def _compare(test: ast.Compare, parts: _Parts) -> None:
    """Compute a chain of comparisons until one does not hold."""
    part, (got, near) = test.left, _operand(test.left, parts)
    for op, other in zip(map(type, test.ops), test.comparators, strict=True):
        wanted, more = _operand(other, parts)
        close = near and op in (ast.Lt, ast.LtE)  # abs(got - wanted) < 1e-6
        say = (near,) if close else (_against, part, got, op, other, wanted)
        with _or(*say):
            holds = bool(COMPARISONS[op][0](got, wanted))
        if not holds:
            raise _Untrue(*say)
        part, got, near = other, wanted, more


def _operand(part: ast.expr, parts: _Parts) -> tuple[object, Callable[[], str] | None]:
    """Return what a part is and, of abs(got - wanted), what says these two."""
    if not (isinstance(part, ast.Call) and _name(part.func) == "abs" and (not part.args or _plain(part))):
        return parts.value(part), None
    apart = part.args[0] if part.args else getattr(part.func, "value", None)
    if not (isinstance(apart, ast.BinOp) and isinstance(apart.op, ast.Sub | ast.Add)):
        return parts.value(part), None
    got, other = parts.value(apart.left), parts.value(apart.right)
    difference = ast.BinOp(_computed(0), apart.op, _computed(1))
    method = ast.Call(ast.Attribute(difference, "abs", ast.Load()), [], [])

    def tell() -> str:
        return _beside(_text(apart.left), got, other if isinstance(apart.op, ast.Sub) else -other)

    with _or(tell):
        return parts.value(ast.Call(part.func, [difference], []) if part.args else method, got, other), tell


def _against(part: ast.expr, got: object, op: type, other: ast.expr, wanted: object) -> str:
    """Return the words for one comparison that does not hold."""
    words = COMPARISONS[op][1]
    if _literal(part) and not _literal(other):  # 0.2 < share: the share is what was got
        if op in (ast.In, ast.NotIn):
            return f"{_text(other)} is {_shown(wanted)}, wanted {'' if op is ast.In else 'no '}{_shown(got)} in it"
        words = COMPARISONS[MIRRORED.get(op, op)][1]
        part, got, wanted = other, wanted, got
    if not words:
        return _beside(_text(part), got, wanted)
    exactly = _shown(got) == _shown(wanted)
    return f"{_text(part)} is {_shown(got, exactly)}, wanted {words}{_shown(wanted, exactly)}"


def _alike(test: ast.Call, parts: _Parts) -> None:
    """Compute torch.allclose(got, wanted), or got.allclose(wanted)."""
    function, given = test.func, test.args[:2]
    owner = parts.value(function.value) if isinstance(function, ast.Attribute) else None
    if hasattr(owner, "shape"):
        given = [function.value, test.args[0]]
        pair = (owner, parts.value(test.args[0]))
        changed = ast.Call(ast.Attribute(_computed(0), function.attr, ast.Load()), [_computed(1), *test.args[1:]], [])
    elif len(given) == 2:
        pair = (parts.value(given[0]), parts.value(given[1]))
        changed = ast.Call(function, [_computed(0), _computed(1), *test.args[2:]], [])
    else:
        if not parts.value(test):
            raise _Untrue(lambda: f"{_text(test)} is False, wanted True")
        return
    changed.keywords = test.keywords
    with _or(_beside, _text(given[0]), *pair):
        holds = bool(parts.value(changed, *pair))
    if not holds:
        raise _Untrue(_beside, _text(given[0]), *pair)


def _beside(text: str, got: object, wanted: object) -> str:
    """Return what was got beside what was wanted; "" where they would look the same."""
    shapes = [tuple(getattr(one, "shape", ())) for one in (got, wanted)]
    if shapes[0] == shapes[1] and math.prod(shapes[0]) > LARGE:
        return _apart(text, got, wanted)
    for exactly in (False, True):
        shown = [_shown(one, exactly) for one in (got, wanted)]
        if exactly or len({re.sub(r"\.0\b", "", one) for one in shown}) > 1:  # not 3.0 and 3 for 3.00000001 and 3
            break
    if shown[0] != shown[1]:
        return f"{text} is {shown[0]}, wanted {shown[1]}"
    kinds = [str(getattr(one, "dtype", type(one).__name__)) for one in (got, wanted)]
    return f"{text} is {shown[0]} ({kinds[0]}), wanted {shown[1]} ({kinds[1]})" if kinds[0] != kinds[1] else ""


def _apart(text: str, got: object, wanted: object) -> str:
    """Return how far two large tensors of one shape are apart, "" where they are not."""
    kinds = ["an array of NumPy" if isinstance(one, np.ndarray) else "a tensor" for one in (got, wanted)]
    if kinds[0] != kinds[1]:
        return f"{text} is {kinds[0]}, wanted {kinds[1]}"
    numbers = [one if isinstance(one, np.ndarray) else one.detach().cpu() for one in (got, wanted)]
    differ = ~((numbers[0] == numbers[1]) | ((numbers[0] != numbers[0]) & (numbers[1] != numbers[1])))
    count = f"{int(differ.sum())} of {math.prod(differ.shape)} places"
    if not differ.any():
        return f"{text} is of {got.dtype}, wanted {wanted.dtype}" if got.dtype != wanted.dtype else ""
    lost = numbers[0] != numbers[0]  # nan
    if (lost & differ).any():
        return f"{text} is nan at {int((lost & differ).sum())} of {math.prod(differ.shape)} places"
    if "float" not in str(got.dtype) and "complex" not in str(got.dtype):  # class numbers are names: they differ or not
        return f"{text} is not what is wanted at {count}"
    return f"{text} is off by {_shown(float(abs(numbers[0] - numbers[1])[differ].max()))} at its worst pixel or number"


def _computed(number: int) -> ast.Name:
    return ast.Name(f"_{number}", ast.Load())


def _literal(part: ast.expr) -> bool:
    """Whether a part is written in numbers and text alone."""
    return not any(isinstance(node, ast.Name | ast.Call | ast.Attribute) for node in ast.walk(part))


def _plain(call: ast.Call) -> bool:
    """Whether a call has arguments by position, each of its own."""
    return bool(call.args) and not any(isinstance(one, ast.Starred) for one in call.args)


def _name(function: ast.expr) -> str:
    """Return the last name of a function: allclose of torch.allclose."""
    return getattr(function, "attr", getattr(function, "id", ""))


def _text(part: ast.expr, most: int = 60) -> str:
    """Return the source of a part, cut where it is long."""
    return _cut(ast.unparse(part), most)


def _shown(value: object, exactly: bool = False) -> str:
    """Return a value in a few words: a large tensor by its shape, numbers in six digits unless `exactly`."""
    if hasattr(value, "shape") and hasattr(value, "tolist"):
        if math.prod(value.shape) > LARGE:
            return f"a tensor {tuple(value.shape)}"
        value = value.tolist()
    return _cut(repr(value if exactly else _rounded(value)), 90)


def _rounded(value: object) -> object:
    """Return a number, or the numbers of a list, with six digits."""
    if type(value) in (list, tuple):
        return type(value)(map(_rounded, value))
    return float(f"{value:.6g}") + 0.0 if type(value) is float else value  # -0.0 is shown as 0.0


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
