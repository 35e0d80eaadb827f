"""The rule of outcomes: what a training came to is expected (`exercises.expect`), what is exact is asserted.

Names are followed through the notebook, cell after cell, as far as its text shows: what a training call binds or
changes is its outcome, and so is what is computed of it. Shapes and numbers of parameters are not.
"""

import ast
from collections.abc import Iterator

from nbformat import NotebookNode

from course_lib.notebook_tools.cells import CHECKED, called, code_cells, expectations, statements, tags

TRAINING = {"fit", "train_or_load"}
"""Functions of the course that train: their result and their first argument are outcomes."""
LOADING = {"load_weights", "build_model"}
"""Functions that load a committed network, or may: behind an expectation, but no bar to an assert."""
EXACT_CALLS = {"len", "range", "type", "isinstance", "hasattr", "count_parameters", "activation_bytes"}
EXACT_CALLS |= {"numel", "dim", "keys", "element_size", "receptive_fields"}
EXACT_ATTRIBUTES = {"shape", "ndim", "dtype", "device", "nbytes", "training", "requires_grad", "recipe", "classes"}
EXACT_ATTRIBUTES |= {"kernel_size", "stride", "dilation", "padding", "groups", "in_channels", "out_channels"}
SAME = {"allclose", "equal", "isclose", "array_equal"}
"""Calls that compare two computations of one thing."""
MARK = "# exact"
"""The comment that lets an assert on an outcome stand: it is mathematics."""

LOADED, TRAINED = 1, 2


def check_outcomes(notebook: NotebookNode) -> Iterator[str]:
    """Yield each bare assert on the outcome of a training, and each expectation with nothing behind it."""
    flow = _Flow()
    for number, cell in code_cells(notebook):
        flow.lines = cell.source.splitlines()
        flow.problems = []
        flow.run(statements(cell))
        yield from (f"cell {number}: {problem}" for problem in dict.fromkeys(flow.problems))
        if CHECKED in tags(cell) and expectations(cell):
            yield f'cell {number}: an expectation under the tag "{CHECKED}": its numbers differ between machines'


def _base(node: ast.AST) -> str:
    """Return the name at the bottom of `name.of["some"].call()`."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call | ast.Starred):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _parts(test: ast.expr) -> Iterator[ast.expr]:
    """Yield what a condition joins with `and`, `or` and `not`."""
    match test:
        case ast.BoolOp(values=values):
            for value in values:
                yield from _parts(value)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield from _parts(operand)
        case _:
            yield test


def _is_same(test: ast.expr) -> bool:
    """Whether an assert compares two computations of one thing."""
    match test:
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_is_same(value) for value in values)
        case ast.Call(func=ast.Name(id="all"), args=[ast.GeneratorExp(elt=test) | ast.ListComp(elt=test)]):
            return _is_same(test)
    return called(test) in SAME


class _Flow:
    """How far a training decides each name, after the statements run so far."""

    def __init__(self) -> None:
        self.levels: dict[str, int] = {}
        self.optimized: dict[str, set[str]] = {}
        self.imported: set[str] = set()
        self.functions: dict[str, ast.FunctionDef] = {}
        self.inside: list[str] = []
        self.lines: list[str] = []
        self.problems: list[str] = []

    def run(self, body: list[ast.stmt]) -> None:
        for statement in body:
            for call in ast.walk(statement):
                if isinstance(call, ast.Call) and not isinstance(statement, ast.FunctionDef | ast.ClassDef):
                    self.change(call)
            getattr(self, f"run_{type(statement).__name__}", self.run_others)(statement)

    # -- statements

    def run_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.imported |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}

    run_ImportFrom = run_Import

    def run_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.functions[node.name] = node
        inner = _Flow()
        inner.__dict__ |= {name: value.copy() for name, value in self.__dict__.items() if hasattr(value, "copy")}
        inner.problems, inner.inside = self.problems, [*self.inside, node.name]
        inner.levels |= dict.fromkeys((one.arg for one in ast.walk(node.args) if isinstance(one, ast.arg)), 0)
        inner.run(node.body)

    def run_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self.bind(target, node.value)

    def run_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.bind(node.target, node.value)

    def run_AugAssign(self, node: ast.AugAssign) -> None:
        self.raise_to(_base(node.target), self.level(node.value))

    def run_For(self, node: ast.For | ast.While) -> None:
        steps = [call for call in ast.walk(node) if called(call) == "step"]
        if any(called(call) == "backward" for call in ast.walk(node)):
            for name in {_base(call) for call in steps}:
                for trained in (name, *self.optimized.get(name, ())):
                    self.raise_to(trained, TRAINED)
        for _ in range(2):  # what the end of a loop binds, its beginning may read
            if isinstance(node, ast.For):
                self.bind_each(node.target, node.iter)
            self.run(node.body)
        if isinstance(node, ast.For):
            self.raise_sources(node.target, node.iter)
        self.run(node.orelse)

    run_While = run_For

    def run_Assert(self, node: ast.Assert) -> None:
        marked = any(MARK in line for line in self.lines[node.lineno - 1 : node.end_lineno])
        if self.level(node.test) == TRAINED and not marked and not _is_same(node.test):
            self.problems.append(
                f'"assert {ast.unparse(node.test)}" is about the outcome of a training: use exercises.expect '
                f'(or end the line in "{MARK}" where it is mathematics)'
            )

    def run_others(self, node: ast.stmt) -> None:
        if isinstance(node, ast.With):
            for item in node.items:
                if item.optional_vars is not None:
                    self.bind(item.optional_vars, item.context_expr)
        for part in ("body", "orelse", "finalbody"):
            self.run(getattr(node, part, []))
        for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
            self.run(part.body)

    # -- what calls change

    def change(self, call: ast.Call) -> None:
        name, arguments = called(call), [*call.args, *(keyword.value for keyword in call.keywords)]
        if name == "expect":
            self.check_expect(call)
        elif name in TRAINING and arguments:
            self.raise_to(_base(arguments[0]), TRAINED)
        elif name in LOADING:
            for argument in arguments:
                self.raise_to(argument.id if isinstance(argument, ast.Name) else "", LOADED)
        elif name in self.functions and isinstance(call.func, ast.Name):
            definition = self.functions[name]
            if self.trains(definition):
                for parameter, argument in zip(definition.args.args, call.args, strict=False):
                    if parameter.arg in self.fitted(definition):
                        self.raise_to(_base(argument), TRAINED)
        elif isinstance(call.func, ast.Attribute):  # a method may keep what it is given
            self.raise_to(_base(call.func), max((self.level(argument) for argument in arguments), default=0))

    def check_expect(self, call: ast.Call) -> None:
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        text = ast.unparse(call.args[1]) if len(call.args) > 1 else ""
        if not text or not isinstance(call.args[1], ast.Constant | ast.JoinedStr):
            self.problems.append("an expectation needs its statement, written out, as the second argument")
        elif not _names(call.args[0]):
            self.problems.append(f"the expectation {text} has a constant condition")
        elif any(isinstance(node, ast.Constant) and isinstance(node.value, bool) for node in _parts(call.args[0])):
            self.problems.append(f"the expectation {text} has a constant in its condition")
        elif not {"found", "wanted"} <= set(given):
            self.problems.append(f"the expectation {text} needs found=... and wanted=...")
        elif not _names(given["found"]):
            self.problems.append(f"the expectation {text} has a number typed by hand as what was found")
        elif not self.inside and not self.level(call.args[0]):
            self.problems.append(f"the expectation {text} has no training behind it: assert what is exact")

    def raise_to(self, name: str, level: int) -> None:
        if name and name not in self.imported and level > self.levels.get(name, 0):
            self.levels[name] = level

    # -- binding

    def bind(self, target: ast.expr, value: ast.expr) -> None:
        match target, value:
            case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
                levels = [self.level(one) for one in values]
                for one, level in zip(targets, levels, strict=True):
                    self.store(one, level)
            case _:
                self.store(target, self.level(value))
        if isinstance(target, ast.Name) and isinstance(value, ast.Call) and value.args:
            self.optimized[target.id] = _names(value.args[0])

    def store(self, target: ast.expr, level: int) -> None:
        if isinstance(target, ast.Name):
            self.levels[target.id] = level
        elif isinstance(target, ast.Tuple | ast.List):
            for one in target.elts:
                self.store(one, level)
        else:
            self.raise_to(_base(target), level)

    def bind_each(self, target: ast.expr, values: ast.expr) -> None:
        """Bind the names of a loop: keys of `items` and numbers of `enumerate` are no outcomes."""
        pairs = isinstance(target, ast.Tuple) and called(values) in ("items", "enumerate")
        if pairs and len(target.elts) == 2:
            self.store(target.elts[0], 0)
            self.store(target.elts[1], self.level(values))
        elif isinstance(target, ast.Tuple) and called(values) == "zip" and len(values.args) == len(target.elts):
            for one, argument in zip(target.elts, values.args, strict=True):
                self.bind_each(one, argument)
        else:
            self.store(target, self.level(values))

    def raise_sources(self, target: ast.expr, values: ast.expr) -> None:
        """What was trained as an element is an outcome in its list, too."""
        level = max((self.levels.get(name, 0) for name in _names(target)), default=0)
        for name in _names(values) - self.imported - set(self.functions):
            self.raise_to(name, level)

    # -- expressions

    def level(self, node: ast.AST) -> int:
        """Return whether a value is the outcome of a training, of a committed network, or of neither (0)."""
        match node:
            case ast.Name(id=name):
                return self.levels.get(name, 0)
            case ast.Attribute(attr=name) if name in EXACT_ATTRIBUTES:
                return 0
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
                if name in EXACT_CALLS:
                    return 0
                if name in TRAINING | LOADING:
                    return TRAINED if name in TRAINING else LOADED
                if name in self.functions and isinstance(node.func, ast.Name):
                    return max(self.of_function(name), *(self.level(one) for one in ast.iter_child_nodes(node)))
            case ast.GeneratorExp() | ast.ListComp() | ast.SetComp() | ast.DictComp():
                return self.of_comprehension(node)
        return max((self.level(inner) for inner in ast.iter_child_nodes(node)), default=0)

    def of_comprehension(self, node: ast.expr) -> int:
        outer, results = dict(self.levels), [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for generator in node.generators:
            self.bind_each(generator.target, generator.iter)
        conditions = [condition for generator in node.generators for condition in generator.ifs]
        found = max(self.level(part) for part in (*results, *conditions))
        self.levels = outer
        return found

    def of_function(self, name: str) -> int:
        """Return the level of what a function of the notebook reads from outside, or TRAINED where it trains."""
        if name in self.inside:
            return 0
        definition = self.functions[name]
        if self.trains(definition):
            return TRAINED
        given = {one.arg for one in ast.walk(definition.args) if isinstance(one, ast.arg)}
        given |= {inner.id for inner in ast.walk(definition) if isinstance(getattr(inner, "ctx", None), ast.Store)
                  and isinstance(inner, ast.Name)}  # fmt: skip
        self.inside.append(name)
        read = [self.of_function(one) if one in self.functions else self.levels.get(one, 0)
                for one in _names(definition) - given]  # fmt: skip
        self.inside.pop()
        return max(read, default=0)

    def trains(self, definition: ast.FunctionDef) -> bool:
        names = {called(node) for node in ast.walk(definition)}
        others = [self.functions[name] for name in names & set(self.functions) if name != definition.name]
        return bool(names & TRAINING or {"backward", "step"} <= names or any(self.trains(one) for one in others))

    def fitted(self, definition: ast.FunctionDef) -> set[str]:
        """Return the parameters of a function that it trains, or may train."""
        calls = [node for node in ast.walk(definition) if isinstance(node, ast.Call)]
        return {_base(argument) for call in calls for argument in call.args[:1]} | {_base(call) for call in calls}
