import csv
import io
import json

import fake_study
import pytest

from gankd_jax.report.headline import headline
from gankd_jax.report.rows import csv_text
from gankd_jax.report.runs import Study, read
from gankd_jax.report.table import TEXT_WIDTH, markdown, notes, rows, text
from gankd_jax.report.wording import difference, number, ratio, size, spread


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Study:
    return read(fake_study.make(tmp_path_factory.mktemp("full")))


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory) -> Study:
    return read(fake_study.unfinished(tmp_path_factory.mktemp("unfinished")))


def row(study: Study, score: str, recipe: str, width: int | None):
    [found] = [r for r in rows(study) if (r.score, r.recipe, r.width) == (score, recipe, width)]
    return found


def test_a_row_by_hand(full):
    # Seeds 5.0, 5.1, 5.2 against 2.0, 2.1, 2.2; the teacher has 8.0 and 100 * 32^2 parameters.
    found = row(full, "inception_score", "mse", 2)
    assert found.summary.mean == pytest.approx(5.1)
    assert found.summary.sd == pytest.approx(0.1)
    assert found.ratio == 32**2 / 2**2
    assert found.share == pytest.approx(5.1 / 8)
    assert found.comparison.difference == pytest.approx(3.0)
    assert found.comparison.margin == pytest.approx(0.2267, abs=1e-4)
    assert found.comparison.verdict == "student ahead"
    assert found.paper == 5.80
    assert found.paper_share == pytest.approx(0.83, abs=0.005)


def test_a_baseline_that_wins_is_called_ahead(full):
    assert row(full, "inception_score", "mse", 8).comparison.verdict == "baseline ahead"
    assert row(full, "fd_classifier", "mse", 8).comparison.verdict == "baseline ahead"
    assert row(full, "fd_classifier", "mse", 4).comparison.verdict == "within spread"
    assert any("baseline ahead 2 (mse d=8, joint d=8)" in line for line in headline(full))
    assert "baseline ahead" in text(full)
    assert "baseline ahead" in markdown(full)


def test_the_teacher_and_the_real_images_stand_in_the_table(full):
    assert row(full, "inception_score", "teacher", 32).share == 1.0
    assert row(full, "inception_score", "real", None).summary.mean == 9.8
    assert row(full, "fd_classifier", "mse", 2).share == pytest.approx(10 / 101)


def test_students_only_scores_have_no_baseline_rows(full):
    kinds = {r.kind for r in rows(full) if r.score == "pixel_error"}
    assert kinds == {"student"}


def test_headline_values(full):
    lines = headline(full)
    assert "width 32 with 102,400 parameters" in lines[0]
    assert "width 2 with 400 parameters, a compression of 256:1" in lines[0]
    assert lines[1] == (
        "Of the teacher's Inception Score (8.00) width 2 keeps: mse 64%, joint 64%, baseline 26%."
    )


def test_csv_holds_every_row_unrounded(full):
    read_back = list(csv.DictReader(io.StringIO(csv_text(full))))
    assert len(read_back) == len(rows(full))
    [line] = [
        r
        for r in read_back
        if (r["score"], r["recipe"], r["width"]) == ("fd_classifier", "joint", "4")
    ]
    assert float(line["mean"]) == 51.0
    assert line["by_seed"] == "0=50.0;1=51.0;2=52.0"
    assert float(line["difference"]) == 0.5
    assert (line["seeds"], line["parameters"], line["paper"]) == ("3", "1600", "")


def test_markdown_tables_are_rectangular(full):
    tables = [block for block in markdown(full).split("\n\n") if block.startswith("|")]
    assert len(tables) == 2 + 4 + 2  # sizes and bytes, scores, how far down and how much wider
    for block in tables:
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert (
        "| 2 | mse student | 3 | 5.10 ± 0.10 | 64% | +3.00 ± 0.23 | student ahead | "
        in markdown(full)
    )


def test_bytes_on_disk_and_the_scores_of_smaller_weights(full):
    # The teacher has 4 * 100 * 32^2 bytes in float32, the student 100 * 2^2 in int8.
    assert "| 2 | small | 1,600 | 256:1 | 800 | 512:1 | 400 | 1024:1 |" in markdown(full)
    assert "| student ahead | 5.80 (83%) | 5.10 | 4.59 | 0: 5.00, 1: 5.10, 2: 5.20 |" in markdown(
        full
    )
    [line] = [
        r
        for r in csv.DictReader(io.StringIO(csv_text(full)))
        if (r["score"], r["recipe"], r["width"]) == ("fd_classifier", "mse", "2")
    ]
    assert [line[f"disk_bytes_{p}"] for p in ("float32", "float16", "int8")] == [
        *("1600", "800", "400")
    ]
    assert [float(line[f"disk_ratio_{p}"]) for p in ("float32", "int8")] == [256, 1024]
    assert [float(line[f"mean_{p}"]) for p in ("float16", "int8")] == [101, pytest.approx(90.9)]


def test_a_study_scored_before_there_were_precisions_has_its_table(tmp_path):
    folder = fake_study.make(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    for path in folder.glob("*/scores.json"):
        path.write_text(
            json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "precisions"})
        )
    study = read(folder)
    assert "By bytes on disk" not in markdown(study)
    assert "weights |" not in markdown(study)
    assert {r["disk_bytes_int8"] for r in csv.DictReader(io.StringIO(csv_text(study)))} == {""}


def test_the_papers_numbers_are_said_to_be_another_judges(full):
    assert "5.80 (83%)" in text(full)
    assert "ANOTHER network" in notes(full)[-1]


def test_one_seed_is_no_claim(tmp_path):
    study = read(fake_study.make(tmp_path, seeds=(0,), widths=(2, 8), students=("mse",)))
    found = row(study, "inception_score", "mse", 2)
    assert found.summary.sd is None
    assert found.comparison.verdict == "one seed"
    assert not any(word in text(study) for word in ("student ahead", "baseline ahead"))
    assert any("baseline better 1 (mse d=8)" in line for line in headline(study))


def test_an_unfinished_study_says_what_is_missing(unfinished):
    assert "Unfinished: 5 of 9 runs have scores, 1 failed." in headline(unfinished)
    for written in (text(unfinished), markdown(unfinished)):
        assert "baseline-d2-s0: failed at step 120: the critic's loss is not finite" in written
        assert "1 of 2" in written


def test_without_a_teacher_nothing_is_called_compressed(tmp_path):
    study = read(fake_study.no_teacher(tmp_path))
    assert "no teacher has been chosen yet" in headline(study)[0]
    assert all(r.share is None and r.ratio is None for r in rows(study))
    assert "student d=2 seed 0: not started" in markdown(study)


def test_without_a_classifier_the_other_scores_stand(tmp_path):
    made = fake_study.make(
        tmp_path, seeds=(0,), widths=(2,), data="celeb_a", scores=("sharpness", "pixel_error")
    )
    study = read(made)
    assert {r.score for r in rows(study)} == {"sharpness", "pixel_error"}
    assert "446:1" in text(study)
    assert "paper*" not in text(study)


def test_the_papers_fid_stands_beside_every_frechet_distance(tmp_path):
    study = read(fake_study.make(tmp_path, seeds=(0,), widths=(2,), data="celeb_a"))
    assert row(study, "fd_classifier", "mse", 2).paper == 12.15
    assert row(study, "fd_classifier", "baseline", 2).paper == 45.49
    assert row(study, "inception_score", "mse", 2).paper is None


def test_teachers_that_were_tried_are_listed(tmp_path):
    fake_study.make(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    fake_study.add_teacher(tmp_path, width=16, inception_score=7.25)
    tried = text(read(tmp_path)).split("Teachers tried")[1].splitlines()
    assert [line.split()[:4] for line in tried[3:5]] == [
        ["32", "0", "chosen", "20.50"],
        ["16", "0", "31.50", "25,600"],
    ]
    assert "7.25" in tried[4]


def test_text_fits_a_terminal(full, unfinished, tmp_path):
    long = fake_study.make(tmp_path, seeds=(0, 1), students=("a_very_long_recipe_name",))
    for study in (full, unfinished, read(long)):
        assert max(map(len, text(study).splitlines())) <= TEXT_WIDTH


def test_numbers_as_they_are_written():
    assert [number(v) for v in (12345.6, 123.45, 1.234, 0.1234, 0.01234, 0.00123, 0.00001)] == [
        *("12,346", "123.5", "1.23", "0.123", "0.0123", "0.00123", "1.0e-05")
    ]
    assert number(float("nan")) == "-"
    assert spread(5.123, 0.456) == "5.12 ± 0.46"
    assert difference(0.5, 0.25, 1000.0) == "+0 ± 0"
    assert difference(-0.5, None, 7.0) == "-0.50"
    assert (ratio(1669.25), ratio(3.25), ratio(None)) == ("1669:1", "3.2:1", "-")
    assert (size(189_299_716), size(113_404)) == ("189.3 MB", "113 kB")
