"""`leaderboard.csv`: what is written is read again, by us and by others, and harms nobody."""

import csv
import os

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interpeval.leaderboards.csv_table import read_csv, write_csv
from interpeval.leaderboards.record import COLUMNS, Record
from leaderboard_cases import record

# Surrogates are not text: `Record` refuses them.
TEXT = st.text(max_size=8) | st.text(alphabet="=+-@\t\r\n'\",; a", max_size=8)
NUMBER = st.none() | st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(0, 10**6)
RECORD = st.builds(
    record,
    value=NUMBER,
    ci_low=NUMBER,
    ci_high=NUMBER,
    mc_se=st.none() | st.floats(0, 1e300),
    higher_is_better=st.booleans(),
    seed=st.integers(-(2**63), 2**63),
    **dict.fromkeys(("n", "n_invalid", "n_degenerate", "n_no_truth", "metric_version"), COUNT),
    **dict.fromkeys(("chance", "seconds", "passes"), NUMBER),
    **dict.fromkeys(("dataset", "model", "explainer", "explainer_params", "variant", "device", "source"), TEXT),
    kind=st.sampled_from(["measured", "reported", "not_applicable"]),
)


def rounded(row: Record) -> Record:
    """The record with its floats as nine significant digits hold them."""
    return row.model_copy(
        update={name: float(f"{value:.9g}") for name, value in row.model_dump().items() if isinstance(value, float)}
    )


def as_written(tmp_path, *rows):
    path = tmp_path / "leaderboard.csv"
    write_csv(rows, path)
    return path.read_bytes().decode()


@settings(deadline=None, max_examples=200)
@given(rows=st.lists(RECORD, max_size=3))
def test_what_is_written_is_read_again(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("board") / "leaderboard.csv"
    write_csv(rows, path)
    first = path.read_bytes()
    assert read_csv(path) == [rounded(row) for row in rows]
    write_csv(read_csv(path), path)
    assert path.read_bytes() == first


@settings(deadline=None, max_examples=200)
@given(row=RECORD)
def test_no_text_is_a_formula_to_a_spreadsheet(tmp_path_factory, row):
    path = tmp_path_factory.mktemp("board") / "leaderboard.csv"
    write_csv([row], path)
    with path.open(encoding="utf-8", newline="") as file:
        _, cells = csv.reader(file)
    for name, cell in zip(COLUMNS, cells, strict=True):
        if cell.startswith(("=", "+", "-", "@", "\t", "\r")):
            float(cell)  # a negative number may stay what it is
            assert name in {"value", "ci_low", "ci_high", "chance", "seed", "seconds", "passes"}


def test_the_bytes_of_a_row(tmp_path):
    row = record(
        2 / 3,
        ci_low=-1e-12,
        ci_high=-0.0,
        chance=123456789.25,
        model='=cmd("x")',
        explainer="'-a",
        variant="b,c",
        source="d\ne",
        n=7,
        higher_is_better=False,
    )
    assert as_written(tmp_path, row) == (
        ",".join(COLUMNS)
        + '\n1,digits,5a,"\'=cmd(""x"")",7c,\'\'-a,{},pointing_game,1,"b,c",0.666666667,-1e-12,0,,False,'
        '123456789,7,0,0,0,0,1.5,12,0.1.0,2.9.0,0.9.0,cpu,measured,"d\ne"\n'
    )


def test_pandas_reads_numbers_truth_values_and_gaps(tmp_path):
    path = tmp_path / "leaderboard.csv"
    write_csv([record(-0.25, higher_is_better=False), record(None, explainer="with\rreturn")], path)
    frame = pd.read_csv(path)
    assert tuple(frame.columns) == COLUMNS
    assert frame["value"].tolist()[0] == -0.25
    assert frame["value"].isna().tolist() == [False, True]
    assert frame["higher_is_better"].tolist() == [False, True]
    assert frame["explainer"].tolist() == ["gradient", "with\rreturn"]


def test_a_spreadsheets_way_of_saving_is_read(tmp_path):
    path = tmp_path / "leaderboard.csv"
    text = as_written(tmp_path, record(0.5)).replace("\n", "\r\n").replace("True", "TRUE")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_csv(path) == [record(0.5)]


def cut(text, place):
    """The text without one column."""
    return "".join(
        ",".join(cell for i, cell in enumerate(line.split(",")) if i != place) + "\n" for line in text.splitlines()
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("0.625", "much"), "leaderboard.csv:3: column `value`: .* number.*, was 'much'$"),
        (lambda text: text.replace("0.625", "nan"), "leaderboard.csv:3: column `value`: .*, was 'nan'$"),
        (lambda text: text.replace("True,,44", "maybe,,44"), "leaderboard.csv:3: column `higher_is_better`: .*'maybe'"),
        (lambda text: text.replace(",44,", ",,"), "leaderboard.csv:3: column `n`: .*, was ''$"),
        (lambda text: text.replace("measured", "guessed"), "leaderboard.csv:2: column `kind`: .*, was 'guessed'$"),
        (lambda text: text.replace("\n1,", "\n2,"), "leaderboard.csv:2: column `schema`: .*, was '2'$"),
        (lambda text: text + "1,2\n", "leaderboard.csv:4: must have 29 cells, has 2$"),
        (lambda text: cut(text, 3), "leaderboard.csv:1: .* but `model` is missing$"),
        (lambda text: text.replace("source\n", "source,more\n"), "leaderboard.csv:1: .* but `more` is unknown$"),
        (lambda text: text.replace("schema,dataset", "dataset,schema"), "leaderboard.csv:1: .* in another order$"),
        (lambda _: "", "leaderboard.csv:1: .* but `schema` is missing$"),
        (lambda text: text + '1,"a"b\n', "leaderboard.csv:4: must be comma separated values, but .* expected after"),
        (lambda text: text.encode() + b"\xff", "leaderboard.csv: must be UTF-8 text, but has the byte 0xff$"),
    ],
)
def test_bad_tables_are_refused_with_line_and_column(tmp_path, damage, message):
    path = tmp_path / "leaderboard.csv"
    damaged = damage(as_written(tmp_path, record(0.5), record(0.625, n=44)))
    path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    with pytest.raises(ValueError, match=message):
        read_csv(path)


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    path = tmp_path / "leaderboard.csv"
    text = as_written(tmp_path, record(0.5, source="on\nthree\nlines"), record(0.625))
    path.write_bytes(text.replace("0.625", "much").encode())
    with pytest.raises(ValueError, match=r"leaderboard.csv:5: column `value`"):
        read_csv(path)


def test_a_failed_write_leaves_the_old_table_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "leaderboard.csv"
    write_csv([record(0.5)], path)

    def full(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_csv([record(0.25)], path)
    assert list(tmp_path.iterdir()) == [path]
    assert read_csv(path) == [record(0.5)]
