"""A board as Markdown and LaTeX: what is bold, and names that would like to be markup."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interpeval.leaderboards.board import Source, merge
from interpeval.leaderboards.latex import as_latex, latex
from interpeval.leaderboards.markdown import as_code, as_text, markdown
from leaderboard_cases import record

HOSTILE = (
    "<script>alert(1)</script>", "a|b", "a`b``c", "**bold**", "[x](http://evil.example)", "@somebody",
    "www.evil.example", "$x$", "\\input{/etc/passwd}", "a & b \\\\ \\hline", "100%", "#1", "a\x1b[2J\nb", "~^_{}",
    "[U+0041]", "\u202etxt.exe",
)  # fmt: skip


def row(name, value, half=0.01, **changes):
    return record(value, explainer=name, ci_low=value - half, ci_high=value + half, **changes)


def board(*rows):
    return merge([Source("a", rows)])


MODEL = record(0.25, explainer="", metric="accuracy")
THREE = board(row("a", 0.9), row("b", 0.5), row("c", 0.505), row("truth", 1.0, 0.0), MODEL)


def table_rows(text):
    """Cells of the lines of Markdown's tables, cut at bars that are not escaped."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_cells_of_markdown():
    header, _, *rows = table_rows(markdown(THREE, title="three"))
    assert header == ["explainer", "`pointing_game` ↑"]
    assert rows == [
        ["`a`", "**0.900** [0.890, 0.910] <sup>a</sup>"],
        ["`b`", "0.500 [0.490, 0.510] <sup>b</sup>"],
        ["`c`", "0.505 [0.495, 0.515] <sup>b</sup>"],
        ["`truth` (control)", "1.000"],
    ]
    assert "100 samples: `accuracy` 0.250." in markdown(THREE, title="three")


def test_cells_of_latex():
    text = latex(THREE, title="three")
    body = text[text.index("\\midrule") : text.index("\\bottomrule")]
    assert [" ".join(line.split()) for line in body.splitlines()] == [
        r"\midrule",
        r"a & \textbf{0.900}\textsuperscript{a} {\scriptsize [0.890, 0.910]} \\",
        r"b & 0.500\textsuperscript{b} {\scriptsize [0.490, 0.510]} \\",
        r"c & 0.505\textsuperscript{b} {\scriptsize [0.495, 0.515]} \\",
        r"\midrule",
        r"truth & 1.000 \\",
    ]
    assert "accuracy 0.250. In brackets" in text


def test_the_best_is_bold_only_where_it_is_separated():
    tied = board(row("a", 0.9, 0.1), row("b", 0.89, 0.1), row("c", 0.1, 0.1))
    assert "**" not in markdown(tied, title="t")
    assert "textbf" not in latex(tied, title="t")


def test_lower_is_better_where_it_is():
    text = markdown(board(*(row(name, v, higher_is_better=False) for name, v in (("a", 0.9), ("b", 0.5)))), title="t")
    assert ["`b`", "**0.500** [0.490, 0.510] <sup>a</sup>"] in table_rows(text)
    assert "`pointing_game` ↓" in text


def test_reported_numbers_have_a_table_of_their_own():
    measured = record(
        0.8, dataset="cifar10", model="site", explainer="own", metric="self_consistency", variant="masked"
    )
    text = markdown(board(measured), title="t")
    assert ["`own`", "`self_consistency masked` ↑"] not in table_rows(text)
    source = "`SITE (NeurIPS 2021), Table 1: SITE (ResNet-18 backbone); both models trained on transformed data`"
    assert table_rows(text)[-1] == ["`own`", "`self_consistency masked`", "0.800 <sup>a</sup>", "0.886", source]
    paper = " ".join(latex(board(measured), title="t").split())
    assert r"& 0.800\textsuperscript{a} & 0.886 & SITE (NeurIPS 2021), Table 1" in paper


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_in_their_cell_of_markdown(name):
    rows = [row(name, 0.9, dataset=name, model=name, metric=name), row("b", 0.5, dataset=name, model=name, metric=name)]
    reason = record(None, kind="not_applicable", source=name, dataset=name, model=name, metric="other", explainer="b")
    text = markdown(board(*rows, reason), title=name)
    assert {len(cells) for cells in table_rows(text)} == {2}
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)  # what is in no code span
    assert not re.search(r"<(?!/?sup>)|http|evil|@|\$|passwd|script|\x1b|\u202e", outside)


@given(text=st.text(max_size=30))
@settings(deadline=None, max_examples=200)
def test_a_code_span_ends_where_it_should(text):
    span = as_code(text)
    fence = re.match("`+", span)[0]
    inner = span[len(fence) : -len(fence)]
    assert span.endswith(fence)
    assert fence not in re.findall("`+", inner)
    assert "\n" not in span
    assert not re.search(r"(?<!\\)\|", inner)


def test_harmless_prose_is_no_code():
    assert as_text("it is not said what it adds up to") == "it is not said what it adds up to"
    assert as_text("see www.example.org") == "`see www.example.org`"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text_in_latex(name):
    rows = [row(name, 0.9, dataset=name, model=name, metric=name), row("b", 0.5, dataset=name, model=name, metric=name)]
    text = latex(board(*rows), title=name)
    assert text.splitlines()[0].startswith("% ")
    assert "\x1b" not in text
    body = "\n".join(text.splitlines()[1:])
    plain = re.sub(r"\\[\\#$%&_{}]|\\[a-zA-Z]+|\$\\(?:up|down)arrow\$|\$\\cdot\$", "", body)
    assert not re.search(r"[#$^~<>|]", plain)
    assert set(re.findall(r"\\([a-zA-Z]+)", body)) <= {
        "begin", "end", "centering", "caption", "resizebox", "linewidth", "toprule", "midrule", "bottomrule", "uparrow",
        "textbf", "textsuperscript", "scriptsize", "cdot", "textbackslash", "textasciitilde", "textasciicircum",
        "textless", "textgreater", "textbar", "textasciigrave", "symbol",
    }  # fmt: skip
    # Cells of a row are cut by `&` alone: two columns make one `&` in every row, of which there are three.
    assert len(re.findall(r"(?<!\\)&", body)) == 3
    depth = 0
    for brace in re.findall(r"(?<!\\)(?:\\\\)*([{}])", body):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0


def test_escapes_of_latex_by_hand():
    assert as_latex("a_b%c&d#e$f{g}") == r"a\_b\%c\&d\#e\$f\{g\}"
    assert as_latex("--- ?`") == "{-}{-}{-} {?}\\textasciigrave{}"
    assert as_latex("Müller") == "Müller"


def test_the_same_rows_in_any_order_give_the_same_text():
    rows = [row("a", 0.9), row("b", 0.5), record(None, kind="not_applicable", source="why", explainer="c")]
    for write in (markdown, latex):
        assert write(board(*rows), title="t") == write(board(*rows[::-1]), title="t")


def test_markdown_holds_no_tags_of_names():
    seen = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, _: seen.append(tag)
    parser.feed(re.sub(r"`[^`]*`", "", markdown(board(row("<img src=x>", 0.9), row("b", 0.1)), title="<b>")))
    assert set(seen) == {"sup"}
