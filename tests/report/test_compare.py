"""Our table beside the paper's, or beside a file's."""

import json
import re
from pathlib import Path

import fake_study
import pytest

from gankd_jax.report import paper_results
from gankd_jax.report.compare import compare
from gankd_jax.utils.errors import UserError


def lines(text: str, title: str = "") -> list[list[str]]:
    """The cells of a table's lines, by its title."""
    part = text[text.index(title) :].split("\n\n")[0].splitlines()[3:]
    return [re.split(r"\s{2,}", line.strip()) for line in part]


def csv_file(folder: Path, *rows: str, header: str = "data,score,width,student,baseline") -> Path:
    path = folder / "reference.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def add_scores(folder: Path, run: str, **scores: float) -> None:
    path = folder / run / "scores.json"
    content = json.loads(path.read_text())
    content["scores"] |= scores
    path.write_text(json.dumps(content))


def test_each_line_holds_ours_theirs_difference_ratio_and_who_is_ahead(tmp_path: Path) -> None:
    text = compare(fake_study.make(tmp_path, students=("mse",)), None)
    assert lines(text) == [
        ["2", "mse student", "3", "5.10 ± 0.10", "5.80", "-0.70", "0.879", "yes", "yes", "yes"],
        ["2", "baseline", "3", "2.10 ± 0.10", "1.86", "+0.24", "1.13"],
        ["4", "mse student", "3", "6.10 ± 0.10", "6.41", "-0.31", "0.952", "yes", "yes", "yes"],
        ["4", "baseline", "3", "5.10 ± 0.10", "3.63", "+1.47", "1.40"],
        ["8", "mse student", "3", "6.60 ± 0.10", "6.60", "+0.00", "1.00", "no", "yes", "no"],
        ["8", "baseline", "3", "7.10 ± 0.10", "4.73", "+2.37", "1.50"],
    ]


def test_of_distances_the_lower_is_ahead_and_one_seed_is_in_doubt(tmp_path: Path) -> None:
    fake_study.make(tmp_path, data="cifar10", seeds=(0,), students=("mse",))
    found = lines(compare(tmp_path, None))
    assert [line[-3:] for line in found[::2]] == [
        ["yes?", "yes", "yes?"],
        ["no?", "yes", "no"],
        ["no?", "yes", "no"],
    ]


def test_every_distance_stands_in_for_the_papers_and_is_told_by_whom(tmp_path: Path) -> None:
    fake_study.make(tmp_path, data="celeb_a", seeds=(0,), widths=(2,), students=("mse",))
    for run in ("student-mse-d2-s0", "baseline-d2-s0"):
        add_scores(tmp_path, run, fid=40.0, fd_768=0.5, kid=0.01)
    text = compare(tmp_path, None)
    assert lines(text, "FID (lower")[0][3:7] == ["40.00", "12.15", "+27.85", "3.29"]
    assert lines(text, "Fréchet distance, 768")[0][3:7] == ["0.500", "12.15", "-11.65", "0.0412"]
    assert "classifier features (lower" in text
    assert "KID" not in text
    assert "Sharpness" not in text
    told = " ".join(text.split())
    assert "FID by the Inception network of FID" in told
    assert "classifier features by the study's own classifier" in told
    assert "the paper's FID, celeb_a at 64x64, teacher of width 128" in told
    assert "ANOTHER network" in told


def test_the_papers_table_as_a_file_gives_the_same(tmp_path: Path) -> None:
    folder = fake_study.make(tmp_path / "study")
    rows = [
        f"mnist,Inception Score,{row.width},{row.results['mnist'].student},"
        f"{row.results['mnist'].baseline}"
        for row in paper_results.PAPER_ROWS
        if "mnist" in row.results
    ]
    rows.append("cifar10,FID,2,11.76,38.72")
    own, filed = compare(folder, None), compare(folder, csv_file(tmp_path, *rows))
    assert lines(filed) == lines(own)
    assert "ANOTHER" in own
    assert "ANOTHER" not in filed
    assert "does not say what network" in " ".join(filed.split())


def test_a_file_names_our_score_by_its_key(tmp_path: Path) -> None:
    folder = fake_study.make(tmp_path / "study", data="digits", widths=(4,), students=("mse",))
    header = "\ufeffwidth,by,data,score,student,baseline"
    path = csv_file(tmp_path, "4,me,digits,fd_classifier,10,", header=header)
    text = compare(folder, path)
    assert lines(text) == [
        ["4", "mse student", "3", "51.00 ± 1.00", "10.00", "+41.00", "5.10", "no?", "-", "-"],
        ["4", "baseline", "3", "50.50 ± 1.00", "-", "-", "-"],
    ]
    assert "Inception Score" not in text


def test_a_score_that_neither_side_of_is_better_names_no_winner(tmp_path: Path) -> None:
    folder = fake_study.make(tmp_path / "study", widths=(4,), students=("mse",))
    text = compare(folder, csv_file(tmp_path, "mnist,sharpness,4,2000,1000"))
    assert lines(text)[0][-3:] == ["-", "-", "-"]


def test_widths_of_one_side_are_named(tmp_path: Path) -> None:
    folder = fake_study.make(tmp_path / "study", widths=(2, 8))
    text = compare(folder, csv_file(tmp_path, *(f"mnist,fd_classifier,{d},1,2" for d in (3, 8))))
    assert "widths only here: 2.\nwidths only there: 3." in text


def test_an_unfinished_study_is_compared_as_far_as_it_is(tmp_path: Path) -> None:
    text = compare(fake_study.unfinished(tmp_path), None)
    assert lines(text)[0][:4] == ["2", "mse student", "1 of 2", "5.00"]
    assert lines(text)[1] == ["2", "baseline", "1 of 2", "2.10", "1.86", "+0.24", "1.13"]


def test_lines_fit_a_terminal(tmp_path: Path) -> None:
    fake_study.make(tmp_path, data="cifar10", students=("joint_hinge_long", "mse"))
    assert max(map(len, compare(tmp_path, None).splitlines())) <= 100


BAD_FILES = {
    "no such column": (["x"], "data,score,width,student", "no column baseline; its first line"),
    "text for a number": (["mnist,fid,4,good,1"], None, r"line 2: width must be a whole number"),
    "a broken width": (["mnist,fid,4,1,1", "mnist,fid,4.5,1,1"], None, "line 3: width"),
    "a short line": (["mnist,fid"], None, "line 2: width"),
    "two lines for one": (["mnist,fid,4,1,1"] * 2, None, "two lines for mnist, fid, width 4"),
    "other data": (["cifar10,FID,4,1,1"], None, "none on mnist; name a table"),
    "other widths": (["mnist,inception_score,3,1,1"], None, "inception_score at the widths 3"),
    "a score we lack": (["mnist,fid,4,1,1"], None, "which has fid at the widths 4"),
    "nothing": ([], None, "none on mnist"),
}


@pytest.mark.parametrize(("rows", "header", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_cannot_be_compared_is_one_clear_line(
    tmp_path: Path, rows: list[str], header: str | None, message: str
) -> None:
    folder = fake_study.make(tmp_path / "study", seeds=(0,), widths=(4,), students=("mse",))
    path = csv_file(tmp_path, *rows, **({"header": header} if header else {}))
    with pytest.raises(UserError, match=message) as caught:
        compare(folder, path)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    folder = fake_study.make(tmp_path / "digits", data="digits")
    with pytest.raises(UserError, match="the paper, which has none on digits"):
        compare(folder, None)
    with pytest.raises(UserError, match="cannot be read as CSV"):
        compare(folder, tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as CSV"):
        compare(folder, tmp_path / "binary.csv")
    with pytest.raises(UserError, match="holds no study"):
        compare(tmp_path / "none", None)
    with pytest.raises(UserError, match="no score to set beside the paper, which has FID"):
        compare(fake_study.make(tmp_path / "c", data="celeb_a", scores=("sharpness",)), None)
