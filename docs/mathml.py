"""Formulas as MathML, written when the site is built.

Browsers draw MathML themselves: the pages need no MathJax, neither from the network nor beside them.
The converter is the one that docutils has; what it does not know of the LaTeX in use here is put into
its terms first. A formula that still cannot be read is a warning, and a warning ends the build.
"""

import re
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)

REWRITTEN = [
    (r"\\(?:begin|end)\{(?:equation|displaymath|math)\*?\}", ""),
    (r"\\(begin|end)\{(?:align|alignat|gather|multline|split|eqnarray)\*?\}", r"\\\1{aligned}"),
    (r"\\begin\{array\}\s*\{[^}]*\}", r"\\begin{matrix}"),
    (r"\\end\{array\}", r"\\end{matrix}"),
    (r"\\(?:label|tag)\*?\{[^}]*\}", ""),
    (r"\\(?:(?:big|Big|bigg|Bigg)m?|middle)(?=\s*(?:\||/|\\[|]|\\[mV]id|\\[lr]?[vV]ert))", ""),
    (r"\\(big|Big|bigg|Bigg)(?=\s*(?:[\[(]|\\\{|\\l))", r"\\\1l"),
    (r"\\(big|Big|bigg|Bigg)(?=\s*(?:[\])]|\\\}|\\r))", r"\\\1r"),
    (r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm)\s*\]", r"\\\\"),
    (r"\\operatorname\*", r"\\operatorname"),
    (r"\\iff(?![A-Za-z])", r"\\Longleftrightarrow"),
    (r"\\stackrel(?![A-Za-z])", r"\\overset"),
    (r"\\texttt(?![A-Za-z])", r"\\mathtt"),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\mathop\{\\(?:mathrm|operatorname|text)\{(\w+)\}\}", r"\\operatorname{\1}"),
]


FUNCTION = "<mo>&ApplyFunction;</mo>"
"""What docutils puts after log, max and the like; browsers leave no space there, LaTeX a thin one."""


def to_mathml(tex: str, block: bool = False) -> str:
    """The formula as a `<math>` element. Raises docutils' MathError where it cannot be read."""
    for pattern, replacement in REWRITTEN:
        tex = re.sub(pattern, replacement, tex)
    try:
        mathml = re.sub(r"\n\s*", "", tex2mathml(tex.strip(), as_block=block))
    except AttributeError:  # where docutils loses the thread
        raise MathError("its brackets, rows or cells do not nest") from None
    for parent in ElementTree.fromstring(re.sub(r"&[A-Za-z]+;", "", mathml)).iter():
        for child in parent:
            above = {"mtr": "mtable", "mtd": "mtr"}.get(_name(child))
            if above and _name(parent) != above:
                raise MathError("its brackets, rows or cells do not nest")
    return re.sub(rf"{FUNCTION}(?!<mo|<mrow><mo|</)", f'{FUNCTION}<mspace width="0.167em"/>', mathml)


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def write(translator: HTML5Translator, node: nodes.math | nodes.math_block, block: bool) -> None:
    """Write a formula as MathML."""
    try:
        translator.body.append(to_mathml(node.astext(), block))
    except MathError as error:
        logger.warning("formula %r: %s", node.astext(), error, location=node, type="math")
        translator.body.append(f"<code>{translator.encode(node.astext())}</code>")


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula in a line."""
    translator.body.append(translator.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    write(translator, node, block=False)
    translator.body.append("</span>")
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own lines."""
    translator.body.append(translator.starttag(node, "div", CLASS="math notranslate nohighlight"))
    write(translator, node, block=True)
    if node["number"] and "amsmath" not in node["classes"]:  # MyST numbers every `align`
        number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="eqno">({number})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
