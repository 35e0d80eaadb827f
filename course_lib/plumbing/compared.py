"""The test of an exercise, run once: whether it is true, and what was got beside what was wanted."""

import ast
import linecache
import math
import re
from collections.abc import Callable, Iterable
from types import CellType, CodeType, FunctionType

import numpy as np

ALIKE = ("allclose", "array_equal", "equal", "isclose", "same")
WORDS = {
    ast.Eq: "",
    ast.Is: "",
    ast.NotEq: "anything but ",
    ast.IsNot: "anything but ",
    ast.Lt: "less than ",
    ast.LtE: "at most ",
    ast.Gt: "more than ",
    ast.GtE: "at least ",
    ast.In: "one of ",
    ast.NotIn: "none of ",
}
LARGE = 12
"""Numbers in a tensor up to which they are shown."""

MIRRORED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}


def compared(test: Callable[[], object]) -> tuple[bool, str]:
    """Run a test, and return whether it is true and what it compared, such as "output_side(572) is 0, wanted 388".

    A lambda whose source can be read is compiled again with notes in it: Python computes it, once, and its parts are kept.

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
    notes = _Notes()
    noting = notes.put_into(test, written)
    try:
        holds = bool(noting())
    except Exception:
        told = notes.told(written.body)  # values that cannot be compared: say what they are rather than that
        if not told:
            raise
        return False, told
    return holds, "" if holds else notes.told(written.body)


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


class _Notes:
    """What the parts of a test were when it was computed."""

    def __init__(self):
        self.begun: list[ast.expr] = []
        self.values: dict[ast.expr, object] = {}
        self._parts: list[ast.expr] = []

    def put_into(self, test: FunctionType, written: ast.Lambda) -> FunctionType:
        """Return the test with notes in it."""
        code = test.__code__
        known = dict(zip(code.co_freevars, test.__closure__ or (), strict=True))
        known |= {"_begin": CellType(self._begin), "_keep": CellType(self._keep)}
        noted = _code(ast.Lambda(written.args, self._test(written.body)), known)
        closure = tuple(known[name] for name in noted.co_freevars)
        function = FunctionType(noted, test.__globals__, argdefs=test.__defaults__, closure=closure)
        function.__kwdefaults__ = test.__kwdefaults__
        return function

    def told(self, test: ast.expr) -> str:
        """Return what the first part that is not true compared; "" where that cannot be told."""
        try:
            return " ".join(self._told(next(one for one in _conjuncts(test) if not self._true(one))).split())
        except Exception:  # a part that raised before it was anything, or a value that cannot be shown
            return ""

    def _begin(self, number: int) -> ast.expr:
        self.begun.append(self._parts[number])
        return self.begun[-1]

    def _keep(self, part: ast.expr, value: object) -> object:
        self.values[part] = value
        return value

    def _true(self, part: ast.expr) -> bool:
        try:
            return bool(self.values[part])
        except Exception:  # it was not reached, or is a tensor of several numbers
            return False

    def _noted(self, part: ast.expr, changed: ast.expr | None = None) -> ast.expr:
        """Return code that is a part and keeps what it is; `changed` is the part with notes of its own in it."""
        self._parts.append(part)
        begin = ast.Call(ast.Name("_begin", ast.Load()), [ast.Constant(len(self._parts) - 1)], [])
        return ast.Call(ast.Name("_keep", ast.Load()), [begin, changed or part], [])

    def _test(self, test: ast.expr) -> ast.expr:
        """Return a test with notes of all that `_told` may need."""
        changed = None
        if _is_and(test):
            return ast.BoolOp(test.op, [self._test(one) for one in test.values])
        if isinstance(test, ast.Compare):
            changed = ast.Compare(self._operand(test.left), test.ops, [self._operand(one) for one in test.comparators])
        elif _is_alike(test):
            function, args = test.func, [self._noted(one) for one in test.args[:2]] + test.args[2:]
            if isinstance(function, ast.Attribute):
                function = ast.Attribute(self._noted(function.value), function.attr, ast.Load())
            changed = ast.Call(function, args, test.keywords)
        elif _is_not(test):
            changed = ast.UnaryOp(test.op, self._noted(test.operand))
        return self._noted(test, changed)

    def _operand(self, part: ast.expr) -> ast.expr:
        """Return a side of a comparison with notes, of abs(got - wanted) with those of the two."""
        apart = _difference(part)
        if apart is None:
            return self._noted(part)
        noted = ast.BinOp(self._noted(apart.left), apart.op, self._noted(apart.right))
        function = part.func if part.args else ast.Attribute(noted, "abs", ast.Load())
        return self._noted(part, ast.Call(function, [noted] if part.args else [], []))

    def _told(self, test: ast.expr) -> str:
        stuck = [part for part in self.begun if part not in self.values and part is not test]
        if stuck:  # it raised; None - 0.5 is told, a part that is not known is not
            (part,) = stuck
            return self._how_far(_difference(part))
        if isinstance(test, ast.Compare):
            known = [part for part in (test.left, *test.comparators) if part in self.values]
            part, other = known[-2:]
            op = type(test.ops[len(known) - 2])
            if op in (ast.Lt, ast.LtE) and _difference(part):  # abs(got - wanted) < 1e-6
                return self._how_far(_difference(part))
            return _against(part, self.values[part], op, other, self.values[other])
        if _is_alike(test):
            pair = test.args[:2]
            if hasattr(self.values.get(getattr(test.func, "value", None)), "shape"):  # got.allclose(wanted)
                pair = [test.func.value, test.args[0]]
            if len(pair) == 2:
                return _beside(_text(pair[0]), self.values[pair[0]], self.values[pair[1]])
        if _is_not(test):
            return f"{_text(test.operand)} is {_shown(self.values[test.operand])}, wanted False"
        return f"{_text(test)} is {_shown(self.values[test])}, wanted True"

    def _how_far(self, apart: ast.BinOp) -> str:
        """Return the words for a difference, or a sum, that should be 0."""
        wanted = self.values[apart.right]
        return _beside(_text(apart.left), self.values[apart.left], wanted if isinstance(apart.op, ast.Sub) else -wanted)


def _conjuncts(test: ast.expr) -> list[ast.expr]:
    """Return the tests that `and` joins, in their order."""
    return [part for one in test.values for part in _conjuncts(one)] if _is_and(test) else [test]


def _is_and(test: ast.expr) -> bool:
    return isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And)


def _is_not(test: ast.expr) -> bool:
    return isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)


def _is_alike(test: ast.expr) -> bool:
    """Whether a test is torch.allclose(got, wanted) or got.allclose(wanted)."""
    return isinstance(test, ast.Call) and _name(test.func) in ALIKE and _plain(test)


def _difference(part: ast.expr) -> ast.BinOp | None:
    """Return the difference or sum in abs(...) or (...).abs()."""
    if not (isinstance(part, ast.Call) and _name(part.func) == "abs" and (not part.args or _plain(part))):
        return None
    apart = part.args[0] if part.args else getattr(part.func, "value", None)
    return apart if isinstance(apart, ast.BinOp) and isinstance(apart.op, ast.Sub | ast.Add) else None


def _against(part: ast.expr, got: object, op: type, other: ast.expr, wanted: object) -> str:
    """Return the words for one comparison that does not hold."""
    words = WORDS[op]
    if _literal(part) and not _literal(other):  # 0.2 < share: the share is what was got
        if op in (ast.In, ast.NotIn):
            return f"{_text(other)} is {_shown(wanted)}, wanted {'' if op is ast.In else 'no '}{_shown(got)} in it"
        words = WORDS[MIRRORED.get(op, op)]
        part, got, wanted = other, wanted, got
    if not words:
        return _beside(_text(part), got, wanted)
    exactly = _shown(got) == _shown(wanted)
    return f"{_text(part)} is {_shown(got, exactly)}, wanted {words}{_shown(wanted, exactly)}"


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
