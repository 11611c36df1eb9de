"""The tables of a report against values by hand; text, Markdown and CSV."""

import csv
import io
import json
import re

import fake_study
import pytest

from gankd_jax.report.aggregate import score_rows, scored_metrics
from gankd_jax.report.formatting import TEXT_WIDTH
from gankd_jax.report.study_results import StudyResults, load_study
from gankd_jax.report.tables import (
    all_tables,
    build_latency_tables,
    build_main_table,
    build_min_width_table,
    build_width_advantage_table,
    describe_min_widths,
    format_all_tables,
    format_report_csv,
    format_report_markdown,
    format_summary,
    table_notes,
)


@pytest.fixture(scope="module")
def one_seed_study(tmp_path_factory) -> StudyResults:
    folder = tmp_path_factory.mktemp("one_seed")
    return load_study(fake_study.write_study(folder, seeds=(0,)))


def read_csv(study: StudyResults) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(format_report_csv(study))))


def cells_by_width(study: StudyResults) -> dict[str, dict[str, str]]:
    """The texts of the main table by width and heading."""
    table = build_main_table(study)
    rows = [[cell.text for cell in row] for row in table.rows]
    return {row[0]: dict(zip(table.header, row, strict=True)) for row in rows}


def test_main_table_has_the_best_student_of_each_width_and_its_baseline(study):
    rows = cells_by_width(study)
    assert list(rows) == ["32", "8", "4", "2"]
    # Scores 5.05, 5.15 and 5.25 of the teacher's 8; the baseline's 2.0, 2.1 and 2.2.
    assert rows["2"] == {
        "width": "2",
        "parameters": "400",
        "ratio": "256:1",
        "bytes": "2 kB",
        "student": "joint",
        "score": "5.15 ± 0.10",
        "keeps": "64%",
        "baseline": "2.10 ± 0.10",
        "it keeps": "26%",
        "verdict": "student ahead",
    }
    assert rows["8"]["verdict"] == "baseline ahead"
    assert (rows["32"]["student"], rows["32"]["score"], rows["32"]["keeps"]) == (
        *("teacher", "8.00", "100%"),
    )
    [column] = [table_column(study, name) for name in ["parameters"]]
    assert column == [102_400, 6_400, 1_600, 400]


def table_column(study: StudyResults, name: str) -> list[float | None]:
    table = build_main_table(study)
    return [row[table.header.index(name)].value for row in table.rows]


def test_main_table_has_latencies_where_they_were_measured(timed_study):
    assert table_column(timed_study, "ms") == [3.2, 0.8, 0.4, 0.4]


def test_a_terminal_shows_the_summary_and_one_table(study):
    text = format_summary(study)
    assert text.count("---") > 0
    summary, table = text.rstrip().split("\n\n")
    assert len(summary.splitlines()) <= 5
    assert len(table.splitlines()) == 3 + 4  # heading and rule; the teacher and three widths
    assert "Sizes" not in text
    assert format_all_tables(study).startswith(text.rstrip())


def test_limits_are_after_the_scores_in_all_tables(study):
    """On a terminal, in table.md and so on the page, which has the same list of tables."""
    metrics = scored_metrics(study)
    titles = [table.title for table in all_tables(study, metrics)]
    sizes, scores = ["Sizes", "By bytes on disk"], [metric.title for metric in metrics]
    assert titles == [*sizes, *scores, "Smallest width", "Width advantage"]
    text, markdown = format_all_tables(study), format_report_markdown(study)
    positions = [text.index(f"\n\n{title}\n") for title in titles]
    assert positions == sorted(positions)
    headings = re.findall(r"^## (.*)", markdown, re.MULTILINE)
    assert headings == ["Result by width", *titles, "How to read it"]


def test_baseline_with_the_better_score_is_ahead(study):
    for text in (format_summary(study), format_all_tables(study), format_report_markdown(study)):
        assert "baseline ahead" in text


def test_one_seed_gives_no_verdict(tmp_path):
    study = load_study(
        fake_study.write_study(tmp_path, seeds=(0,), widths=(2, 8), students=("mse",))
    )
    comparisons = [row.comparison for row in score_rows(study) if row.comparison]
    assert {comparison.verdict for comparison in comparisons} == {"one seed"}
    text = format_all_tables(study)
    assert not any(verdict in text for verdict in ("student ahead", "baseline ahead"))
    assert "one seed, no claim" in text


def test_unfinished_study_lists_runs_without_scores(unfinished_study):
    summary = format_summary(unfinished_study)
    assert "Unfinished: 5 of 9 runs have scores, 1 failed." in summary
    for text in (format_all_tables(unfinished_study), format_report_markdown(unfinished_study)):
        assert "baseline-d2-s0: failed at step 120: the critic's loss is not finite" in text
        assert "1 of 2" in text


def test_study_without_teacher_has_no_ratios(tmp_path):
    study = load_study(fake_study.write_study_without_teacher(tmp_path))
    assert "no teacher has been chosen yet" in format_summary(study)
    assert build_main_table(study) is None
    assert all(r.score_ratio is None and r.size_ratio is None for r in score_rows(study))
    assert "student d=2 seed 0: not started" in format_report_markdown(study)


def test_study_without_classifier_has_the_other_scores(tmp_path):
    workdir = fake_study.write_study(
        tmp_path, seeds=(0,), widths=(2,), data="celeb_a", scores=("sharpness", "pixel_error")
    )
    study = load_study(workdir)
    assert {row.metric.key for row in score_rows(study)} == {"sharpness", "pixel_error"}
    assert "446:1" in format_all_tables(study)
    assert "paper*" not in format_all_tables(study)


def test_csv_has_every_row_unrounded(study):
    lines = read_csv(study)
    assert len(lines) == len(score_rows(study))
    model = ("fd_classifier", "joint", "4")
    [line] = [r for r in lines if (r["score"], r["recipe"], r["width"]) == model]
    assert float(line["mean"]) == 51.0
    assert line["by_seed"] == "0=50.0;1=51.0;2=52.0"
    assert float(line["difference"]) == 0.5
    assert (line["seeds"], line["parameters"], line["paper"]) == ("3", "1600", "")


def test_markdown_tables_are_rectangular(study):
    markdown = format_report_markdown(study)
    tables = [block for block in markdown.split("\n\n") if block.startswith("|")]
    assert len(tables) == 1 + 2 + 4 + 2  # main, sizes, bytes, scores, the limit
    for block in tables:
        assert len({line.count("|") for line in block.splitlines()}) == 1
    row = "| 2 | mse student | 3 | 5.10 ± 0.10 | 64% | +3.00 ± 0.23 | student ahead | "
    assert row in markdown


def test_file_sizes_and_scores_of_lower_precisions(study):
    # The teacher has 4 * 100 * 32^2 bytes in float32, the student 100 * 2^2 in int8.
    markdown = format_report_markdown(study)
    assert "| 2 | small | 1,600 | 256:1 | 800 | 512:1 | 400 | 1024:1 |" in markdown
    by_seed = "0: 5.00, 1: 5.10, 2: 5.20"
    assert f"| student ahead | 5.80 (83%) | 5.10 | 4.59 | {by_seed} |" in markdown
    model = ("fd_classifier", "mse", "2")
    [line] = [r for r in read_csv(study) if (r["score"], r["recipe"], r["width"]) == model]
    assert [line[f"disk_bytes_{p}"] for p in ("float32", "float16", "int8")] == [
        *("1600", "800", "400")
    ]
    assert [float(line[f"disk_ratio_{p}"]) for p in ("float32", "int8")] == [256, 1024]
    assert [float(line[f"mean_{p}"]) for p in ("float16", "int8")] == [101, pytest.approx(90.9)]


def test_study_without_lower_precisions_has_no_file_sizes(tmp_path):
    folder = fake_study.write_study(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    fake_study.drop_precisions(folder)
    study = load_study(folder)
    markdown = format_report_markdown(study)
    assert "By bytes on disk" not in markdown
    assert "weights |" not in markdown
    assert {row["disk_bytes_int8"] for row in read_csv(study)} == {""}


def test_paper_scores_are_marked_as_by_another_network(study):
    assert "5.80 (83%)" in format_all_tables(study)
    assert "ANOTHER network" in table_notes(study)[-1]


def test_teacher_candidates_are_listed(tmp_path):
    fake_study.write_study(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    fake_study.add_teacher(tmp_path, width=16, inception_score=7.25)
    lines = format_all_tables(load_study(tmp_path)).split("Teachers tried")[1].splitlines()
    assert [line.split()[:4] for line in lines[3:5]] == [
        ["32", "0", "chosen", "20.50"],
        ["16", "0", "31.50", "25,600"],
    ]
    assert "7.25" in lines[4]


def test_text_fits_a_terminal(study, unfinished_study, tmp_path):
    long_names = fake_study.write_study(
        tmp_path, seeds=(0, 1), students=("a_very_long_recipe_name",)
    )
    for results in (study, unfinished_study, load_study(long_names)):
        assert max(map(len, format_all_tables(results).splitlines())) <= TEXT_WIDTH


def test_many_widths_fit_a_terminal_and_are_all_in_table_md(tmp_path, monkeypatch):
    widths = (2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
    for width in widths[3:]:
        for scores in (fake_study.STUDENT, fake_study.BASELINE):
            monkeypatch.setitem(scores, width, scores[8])
    study = load_study(fake_study.write_study(tmp_path, seeds=(0,), widths=widths))
    text = format_all_tables(study)
    assert max(map(len, text.splitlines())) <= TEXT_WIDTH
    assert "d=2" in text.split("Width advantage")[1]
    assert "| d=128 |" in format_report_markdown(study).split("## Width advantage")[1]


def test_latency_table_has_each_width_and_precision(timed_study):
    [table] = build_latency_tables(timed_study)
    texts = [[cell.text for cell in row] for row in table.rows]
    assert [text[:3] for text in texts[:3]] == [
        *(["32", "teacher", "float32"], ["32", "teacher", "int8"], ["2", "small", "float32"])
    ]
    assert len(texts) == 4 * 2
    # The teacher needs 3.2 ms, this student 0.2 ms: a speed-up of 16.
    student_int8 = ["2", "small", "int8", "1,000", "0.200", "5,000", "50.00", "16.00", "d=4"]
    assert texts[3] == student_int8
    assert "a made-up machine" in table.note
    assert "## Time" in format_report_markdown(timed_study)


def test_latency_note_warns_of_a_busy_machine(tmp_path):
    fake_study.write_study(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    fake_study.add_latency(tmp_path, widths=(2,))
    path = tmp_path / "latency.json"
    latency = json.loads(path.read_text())
    for spread, busy in ((1.1, False), (2.04, True)):
        latency["runs"]["teacher-d32-s0"]["int8"]["spread"] = spread
        path.write_text(json.dumps(latency))
        [table] = build_latency_tables(load_study(tmp_path))
        assert (
            "The machine was busy: repetitions differ by up to 2.0 times." in table.note
        ) == busy


def test_study_without_latency_has_no_latency_table(study):
    assert build_latency_tables(study) == []


def test_min_width_table_by_hand(one_seed_study):
    # The teacher scores 8.0; mse 5, 6, 6.5; joint 0.05 more; baseline 2, 5, 7.
    table = build_min_width_table(one_seed_study)
    texts = {tuple(cell.text for cell in row[:2]): [c.text for c in row[2:]] for row in table.rows}
    assert table.header[2:] == tuple(f"keeps {n}%" for n in (99, 95, 90, 75, 50))
    score = "Inception Score"
    assert texts[score, "mse student"] == ["none", "none", "none", "d=4 (64:1)", "d=2 (256:1)"]
    assert texts[score, "baseline"] == ["none", "none", "none", "d=8 (16:1)", "d=4 (64:1)"]
    # The teacher's distance is 10, the students' 30 at best: they keep a third.
    assert set(texts["Fréchet distance, classifier features", "mse student"]) == {"none"}


def test_min_widths_of_the_papers_students(one_seed_study):
    [paper] = [
        row
        for row in build_min_width_table(one_seed_study).rows
        if row[1].text == "paper's student*"
    ]
    # Of its teacher's 6.99 the students keep 83 %, 92 %, 94 %, 98 % and 99.1 %.
    assert [cell.text for cell in paper[2:]] == [
        *("d=64", "d=16 (125:1)", "d=4 (762:1)", "d=2 (1669:1)", "d=2 (1669:1)")
    ]


def test_min_widths_as_sentences(one_seed_study):
    score, distance = describe_min_widths(one_seed_study)
    assert score == (
        "Inception Score: students keep 75% of the teacher's score down to d=4 (64:1, joint);"
        " students keep 50% of the teacher's score down to d=2 (256:1, joint). The smallest,"
        " d=2 (256:1, joint), keeps 63%."
    )
    assert "no student keeps 50% of the teacher's" in distance


def test_study_without_teacher_has_no_min_width(tmp_path):
    study = load_study(fake_study.write_study_without_teacher(tmp_path))
    assert describe_min_widths(study) == []
    assert build_min_width_table(study) is None


def test_width_advantage_of_students_and_of_the_paper(one_seed_study):
    table = build_width_advantage_table(one_seed_study)
    assert table.header == ("score", "model", "d=2", "d=4", "d=8")
    lines = {tuple(c.text for c in row[:2]): [c.text for c in row[2:]] for row in table.rows}
    # mse 5, 6, 6.5; baseline 2, 5, 7: mse at d=2 equals the baseline at d=4.
    mse = lines["Inception Score", "mse student"]
    assert mse[0] == "2"
    assert float(mse[1]) > 1 > float(mse[2])
    # The paper's baselines on MNIST: 6.08 at d=32 and 6.51 at d=64 against students' 6.41, 6.60.
    paper = lines["Inception Score", "paper's student*"]
    assert float(paper[0]) == pytest.approx(12, rel=0.1)


def test_study_without_baselines_has_no_width_advantage(tmp_path):
    folder = fake_study.write_study(tmp_path, seeds=(0,), widths=(2,))
    fake_study.remove_run(folder / "baseline-d2-s0")
    assert build_width_advantage_table(load_study(folder)) is None
