"""The paper's table, and comparisons of a study with it or with a CSV file."""

import itertools
import json
import re
from pathlib import Path

import fake_study
import pytest

from gankd_jax.models.dcgan import count_paper_parameters
from gankd_jax.report import paper_results
from gankd_jax.report.aggregate import score_rows
from gankd_jax.report.paper_results import compare_with_published, paper_score
from gankd_jax.report.study_results import load_study
from gankd_jax.utils.errors import UserError


def count_parameters(width: int) -> int:
    """Sums 4x4 kernels and biases over the layers 100 -> 8d -> 4d -> 2d -> d -> 1."""
    channels = [100, 8 * width, 4 * width, 2 * width, width, 1]
    return sum(16 * i * o + o for i, o in itertools.pairwise(channels))


@pytest.mark.parametrize("row", paper_results.PAPER_ROWS, ids=lambda row: f"d{row.width}")
def test_parameters_of_the_paper_follow_from_its_layers(row):
    assert row.parameters == count_paper_parameters(row.width) == count_parameters(row.width)


def test_printed_ratios_follow_from_the_teacher_width():
    printed_ratios = {
        (data, row.width): result.ratio
        for row in paper_results.PAPER_ROWS
        for data, result in row.results.items()
        if result.ratio
    }
    teacher_parameters = {
        data: count_parameters(width) for data, width in paper_results.PAPER_TEACHER_WIDTH.items()
    }
    computed_ratios = {
        (data, width): round(teacher_parameters[data] / count_parameters(width))
        for data, width in printed_ratios
    }
    assert printed_ratios == computed_ratios
    assert len(printed_ratios) == 6 + 6 + 6


def test_headline_numbers_of_the_paper():
    assert count_paper_parameters(256) == 47_324_929
    assert paper_results.paper_result("mnist", 2) == paper_results.PaperResult(1669, 5.80, 1.86)
    assert paper_results.paper_result("cifar10", 4) == paper_results.PaperResult(58, 11.00, 14.28)
    assert paper_results.paper_result("celeb_a", 8) == paper_results.PaperResult(87, 8.78, 11.06)
    assert round(5.80 / paper_results.PAPER_TEACHER_SCORE["mnist"], 2) == 0.83


def test_paper_students_beat_baselines_and_improve_with_width():
    for data, score in paper_results.PAPER_METRIC.items():
        sign = 1 if score == "Inception Score" else -1
        column = [row.results[data] for row in paper_results.PAPER_ROWS if data in row.results]
        students = [sign * result.student for result in column]
        assert students == sorted(students)
        assert all(sign * (r.student - r.baseline) > 0 for r in column if r.baseline)


@pytest.mark.parametrize(("data", "width"), [("mnist", 48), ("cifar10", 64), ("digits", 2)])
def test_no_result_where_the_paper_has_a_dash(data, width):
    assert paper_results.paper_result(data, width) is None


def test_every_frechet_distance_is_compared_with_the_paper_fid(tmp_path):
    fake_study.write_study(tmp_path, seeds=(0,), widths=(2,), students=("mse",), data="celeb_a")
    scores = {
        (row.metric.key, row.kind): paper_score("celeb_a", row)
        for row in score_rows(load_study(tmp_path))
    }
    assert scores["fd_classifier", "student"] == (12.15, None)
    assert scores["fd_classifier", "baseline"] == (45.49, None)
    assert scores["inception_score", "student"] == (None, None)


def test_paper_score_has_its_ratio_to_the_papers_teacher(tmp_path):
    fake_study.write_study(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    rows = score_rows(load_study(tmp_path))
    [row] = [r for r in rows if (r.metric.key, r.kind) == ("inception_score", "student")]
    assert paper_score("mnist", row) == (5.80, pytest.approx(0.83, abs=0.005))
    [teacher] = [r for r in rows if (r.metric.key, r.kind) == ("inception_score", "teacher")]
    assert paper_score("mnist", teacher) == (6.99, None)


def table_cells(text: str, title: str = "") -> list[list[str]]:
    """Returns the cells of the table with a title."""
    lines = text[text.index(title) :].split("\n\n")[0].splitlines()[3:]
    return [re.split(r"\s{2,}", line.strip()) for line in lines]


def write_csv(folder: Path, *rows: str, header: str = "data,score,width,student,baseline") -> Path:
    path = folder / "reference.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def add_scores(folder: Path, run: str, **scores: float) -> None:
    path = folder / run / "scores.json"
    content = json.loads(path.read_text())
    content["scores"] |= scores
    path.write_text(json.dumps(content))


def test_comparison_has_both_scores_difference_ratio_and_verdict(tmp_path: Path) -> None:
    text = compare_with_published(fake_study.write_study(tmp_path, students=("mse",)), None)
    assert table_cells(text) == [
        ["2", "mse student", "3", "5.10 ± 0.10", "5.80", "-0.70", "0.879", "yes", "yes", "yes"],
        ["2", "baseline", "3", "2.10 ± 0.10", "1.86", "+0.24", "1.13"],
        ["4", "mse student", "3", "6.10 ± 0.10", "6.41", "-0.31", "0.952", "yes", "yes", "yes"],
        ["4", "baseline", "3", "5.10 ± 0.10", "3.63", "+1.47", "1.40"],
        ["8", "mse student", "3", "6.60 ± 0.10", "6.60", "+0.00", "1.00", "no", "yes", "no"],
        ["8", "baseline", "3", "7.10 ± 0.10", "4.73", "+2.37", "1.50"],
    ]


def test_lower_distance_is_better_and_one_seed_gets_a_question_mark(tmp_path: Path) -> None:
    fake_study.write_study(tmp_path, data="cifar10", seeds=(0,), students=("mse",))
    rows = table_cells(compare_with_published(tmp_path, None))
    assert [line[-3:] for line in rows[::2]] == [
        ["yes?", "yes", "yes?"],
        ["no?", "yes", "no"],
        ["no?", "yes", "no"],
    ]


def test_every_frechet_distance_is_compared_and_its_network_named(tmp_path: Path) -> None:
    fake_study.write_study(tmp_path, data="celeb_a", seeds=(0,), widths=(2,), students=("mse",))
    for run in ("student-mse-d2-s0", "baseline-d2-s0"):
        add_scores(tmp_path, run, fid=40.0, fd_768=0.5, kid=0.01)
    text = compare_with_published(tmp_path, None)
    assert table_cells(text, "FID (lower")[0][3:7] == ["40.00", "12.15", "+27.85", "3.29"]
    cells = table_cells(text, "Fréchet distance, 768")[0][3:7]
    assert cells == ["0.500", "12.15", "-11.65", "0.0412"]
    assert "classifier features (lower" in text
    assert "KID" not in text
    assert "Sharpness" not in text
    notes = " ".join(text.split())
    assert "FID by the Inception network of FID" in notes
    assert "classifier features by the study's own classifier" in notes
    assert "the paper's FID, celeb_a at 64x64, teacher of width 128" in notes
    assert "ANOTHER network" in notes


def test_paper_table_as_csv_gives_the_same_comparison(tmp_path: Path) -> None:
    folder = fake_study.write_study(tmp_path / "study")
    rows = [
        f"mnist,Inception Score,{row.width},{row.results['mnist'].student},"
        f"{row.results['mnist'].baseline}"
        for row in paper_results.PAPER_ROWS
        if "mnist" in row.results
    ]
    rows.append("cifar10,FID,2,11.76,38.72")
    from_package = compare_with_published(folder, None)
    from_csv = compare_with_published(folder, write_csv(tmp_path, *rows))
    assert table_cells(from_csv) == table_cells(from_package)
    assert "ANOTHER" in from_package
    assert "ANOTHER" not in from_csv
    assert "does not say what network" in " ".join(from_csv.split())


def test_csv_names_a_metric_by_its_key(tmp_path: Path) -> None:
    folder = fake_study.write_study(
        tmp_path / "study", data="digits", widths=(4,), students=("mse",)
    )
    header = "\ufeffwidth,by,data,score,student,baseline"
    path = write_csv(tmp_path, "4,me,digits,fd_classifier,10,", header=header)
    text = compare_with_published(folder, path)
    assert table_cells(text) == [
        ["4", "mse student", "3", "51.00 ± 1.00", "10.00", "+41.00", "5.10", "no?", "-", "-"],
        ["4", "baseline", "3", "50.50 ± 1.00", "-", "-", "-"],
    ]
    assert "Inception Score" not in text


def test_metric_without_direction_has_no_verdict(tmp_path: Path) -> None:
    folder = fake_study.write_study(tmp_path / "study", widths=(4,), students=("mse",))
    text = compare_with_published(folder, write_csv(tmp_path, "mnist,sharpness,4,2000,1000"))
    assert table_cells(text)[0][-3:] == ["-", "-", "-"]


def test_widths_of_one_side_only_are_named(tmp_path: Path) -> None:
    folder = fake_study.write_study(tmp_path / "study", widths=(2, 8))
    text = compare_with_published(
        folder, write_csv(tmp_path, *(f"mnist,fd_classifier,{d},1,2" for d in (3, 8)))
    )
    assert "widths only here: 2.\nwidths only there: 3." in text


def test_unfinished_study_is_compared_as_far_as_it_is(tmp_path: Path) -> None:
    text = compare_with_published(fake_study.write_unfinished_study(tmp_path), None)
    assert table_cells(text)[0][:4] == ["2", "mse student", "1 of 2", "5.00"]
    assert table_cells(text)[1] == ["2", "baseline", "1 of 2", "2.10", "1.86", "+0.24", "1.13"]


def test_comparison_fits_a_terminal(tmp_path: Path) -> None:
    fake_study.write_study(tmp_path, data="cifar10", students=("joint_hinge_long", "mse"))
    assert max(map(len, compare_with_published(tmp_path, None).splitlines())) <= 100


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
def test_unusable_csv_is_rejected_in_one_line(
    tmp_path: Path, rows: list[str], header: str | None, message: str
) -> None:
    folder = fake_study.write_study(tmp_path / "study", seeds=(0,), widths=(4,), students=("mse",))
    path = write_csv(tmp_path, *rows, **({"header": header} if header else {}))
    with pytest.raises(UserError, match=message) as error_info:
        compare_with_published(folder, path)
    assert "\n" not in str(error_info.value)


def test_error_names_what_is_missing(tmp_path: Path) -> None:
    folder = fake_study.write_study(tmp_path / "digits", data="digits")
    with pytest.raises(UserError, match="the paper, which has none on digits"):
        compare_with_published(folder, None)
    with pytest.raises(UserError, match="cannot be read as CSV"):
        compare_with_published(folder, tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as CSV"):
        compare_with_published(folder, tmp_path / "binary.csv")
    with pytest.raises(UserError, match="holds no study"):
        compare_with_published(tmp_path / "none", None)
    with pytest.raises(UserError, match="no score to set beside the paper, which has FID"):
        compare_with_published(
            fake_study.write_study(tmp_path / "c", data="celeb_a", scores=("sharpness",)), None
        )
