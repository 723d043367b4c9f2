"""Attacks on whoever reads feedback: what a browser or a terminal would act on, in all that a student can write.

Each calls `attack(...)` in the browser, or wants something from evil.example.
"""

import base64
from collections.abc import Callable

from attack import Attack, Notebook, markdown_cell
from controls import acts_as_written, acts_in_a_stock_page, steers_a_terminal

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
DRAWING = '<svg xmlns="http://www.w3.org/2000/svg" onload="attack(20)"><script>attack(21)</script></svg>'
MARKDOWN_ATTACKS = {
    "script": "<script>attack(1)</script>",
    "handler": '<img src=x onerror="attack(3)">',
    "handler without space": '<b/onclick="attack(4)">b</b>',
    "frame": '<iframe src="https://evil.example/5"></iframe><iframe srcdoc="<script>attack(5)</script>"></iframe>',
    "form": '<form action="https://evil.example/6"><input autofocus onfocus="attack(6)"></form>',
    "refresh": '<meta http-equiv="refresh" content="0;url=https://evil.example/7">',
    "style sheet": "<style>@import 'https://evil.example/8'; .report { display: none }</style>",
    "style": '<p style="position:fixed;inset:0;background:url(https://evil.example/9)">covers all</p>',
    "base": '<base href="https://evil.example/10/">',
    "style link": '<link rel="stylesheet" href="https://evil.example/11.css">',
    "link that runs": "[click](javascript:attack(12)) <a href=\"java&#10;script:attack(12)\">or</a>",
    "data link": "[click](data:text/html;base64,PHNjcmlwdD5hdHRhY2soMTMpPC9zY3JpcHQ+)",
    "data object": '<object data="data:text/html,<script>attack(14)</script>"></object><embed src="https://evil.example/14">',
    "image from afar": "![seen](https://evil.example/15.png)",
    "drawing as image": f"![d](data:image/svg+xml;base64,{base64.b64encode(DRAWING.encode()).decode()})",
    "text as pixels": "![d](data:image/png;base64,PHNjcmlwdD5hdHRhY2soMTcpPC9zY3JpcHQ+)",
    "drawing": DRAWING,
    "mutation": '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img onerror=attack(18)&gt;">',
    "annotation": '<math><annotation-xml encoding="text/html"><script>attack(19)</script></annotation-xml></math>',
    "formula with a tag": r"$\text{<img src=x onerror=attack(22)>}$ and $\href{javascript:attack(23)}{x}$",
    "formula with quotes": r"$\color{red'\"><script>attack(24)</script>}{x}$",
    "code with a language": "```html\"><script>attack(25)</script>\n<script>attack(25)</script>\n```",
    "false report": '<div class="report"><p class="passed">all passed</p></div><a name="area_checks">x</a>',
    "end of the page": "</div></div></body></html><script>attack(26)</script><body onload=attack(26)>",
    "comment": "<!--><img src=x onerror=attack(27)>-->",
    "title": "<title><a title=\"</title><img src=x onerror=attack(28)>\">",
    "noscript": '<noscript><p title="</noscript><img src=x onerror=attack(29)>">',
    "template": "<template><script>attack(30)</script></template>",
    "video": '<video src="https://evil.example/31.mp4" autoplay></video><audio src=x onerror=attack(31)>',
    "script in upper case, cut": "<SCRIPT>attack(2)//",
}  # fmt: skip
"""What a student may write as text, each with its own number or address."""

ONLY_IN_OTHER_PAGES = {
    "handler without space", "data link", "drawing as image", "text as pixels", "mutation", "formula with a tag",
    "formula with quotes", "code with a language", "false report", "title", "noscript", "template",
    "script in upper case, cut",
}  # fmt: skip
"""Of these nothing comes in a page of stock nbconvert without a network, so that it shows nothing about ours."""

FORMULAS = {
    "formula with a picture": "<math><semantics><mi>x</mi><annotation-xml encoding='text/html'>"
    "<img src='https://evil.example/72'></annotation-xml></semantics></math>",
    "formula with a style": r"<math style='background: url(https://evil.example/73)'><mi>x</mi></math>",
}
"""Formulas that a browser would act on."""

CODE = {
    "displays HTML": "display(HTML('<script>attack(80)</script><img src=x onerror=attack(80)>'))",
    "displays a frame": "display(IFrame('https://evil.example/83', 100, 100))",
    "displays Markdown": "display(Markdown('<img src=x onerror=attack(84)>'))",
    "displays a style sheet": "display(HTML('<style>@import \"https://evil.example/86\";</style>'))",
    "displays a video": "display(Video('https://evil.example/87.mp4', embed=False))",
    "displays a picture from afar": "display(Image(url='https://evil.example/88.png'))",
    "shows itself as HTML": "class Shown:\n    def _repr_html_(self): return '<script>attack(89)</script>'\nShown()",
    "an image's size": f"display({{'image/png': {PIXEL!r}}}, raw=True, "
    "metadata={'image/png': {'width': '1 onload=attack(91) x='}})",
    "a widget": "display({'application/vnd.jupyter.widget-view+json': "
    "{'model_id': '</script><script>attack(92)</script>'}, 'text/html': '<script>attack(92)</script>'}, raw=True)",
    "an update of an output": "handle = display('x', display_id='u')\n"
    "handle.update(HTML('<script>attack(94)</script>'))",
}
"""Cells that show something that a browser would act on."""


def student(name: str) -> str:
    """A student's identifier for the attack of this name."""
    return "page_" + "".join(letter if letter.isalnum() else "_" for letter in name)


def with_text(text: str) -> Callable[[Notebook], object]:
    """Adds a cell of Markdown."""
    return lambda notebook: notebook["cells"].append(markdown_cell(text, "text"))


ACTIVE_TEXT = tuple(
    Attack(
        name=student(name),
        what=f"Text that a browser would act on: {name}.",
        change=with_text(text),
        control=acts_in_a_stock_page,
    )
    for name, text in {**MARKDOWN_ATTACKS, **FORMULAS}.items()
    if name not in ONLY_IN_OTHER_PAGES
)
ACTIVE_CODE = tuple(
    Attack(
        name=student(name),
        what=f"A cell that shows what a browser would act on: {name}.",
        last="from IPython.display import *\n" + code,
        control=acts_in_a_stock_page,
    )
    for name, code in CODE.items()
)
ATTACKS = (
    *ACTIVE_TEXT,
    *ACTIVE_CODE,
    Attack(
        name="page_comment_in_code",
        what="Code that a browser would act on, in the line that fails, which the report quotes.",
        answers={
            "volume": "def volume(side, height):\n    raise ValueError  # </pre></code><script>attack(63)</script>"
        },
        marks=(2, 0),
        control=acts_as_written("volume"),
    ),
    Attack(
        name="terminal_codes",
        what="Prints, raises and names things with codes that steer a terminal: colours, titles, cleared screens.",
        answers={
            "volume": "def volume(side, height):\n    print('\\x1b]0;title\\x07\\x1b[2J\\x9b31m')\n"
            "    raise ValueError('\\x1b[31mred\\u202egnp')"
        },
        marks=(2, 0),
        hidden="\x1b",
        control=steers_a_terminal,
    ),
)
