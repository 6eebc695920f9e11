"""The report of a study: a document with tables and findings, pictures, CSV and LaTeX."""

from collections.abc import Mapping
from pathlib import Path

from misc.process.durable import write_text
from misc.study.outcome import Stored, read_stored, write_stored
from misc.study.pictures import draw_noise, draw_runs
from misc.study.plan import Plan
from misc.study.published import FACTS
from misc.study.rows import Study, all_tables, cost_sentence
from misc.study.tables import Table, as_csv

RUNS = "runs.jsonl"
PICTURES = {
    "in-domain": "![R@1 of every run](study/runs.png)",
    "noise": "![R@1 by the share of wrong captions](study/noise.png)",
}
READING = """Mean ± sample standard deviation over the seeds, in percent, text to image, on the test split. \
"By val": the epoch is picked on the val split. "By test": the test split itself picks it, as nearly all \
published figures do; such figures are too high, and stand here for comparison with those alone."""


def write_report(plan: Plan, source: Path | Stored, folder: Path) -> None:
    """Write `study.md` and, in the folder `study`, what it is made of and the tables in other forms.

    Args:
        source: what the study found; or the file of an earlier one.
    """
    beside = folder / "study"
    beside.mkdir(parents=True, exist_ok=True)
    if isinstance(source, Path):
        stored = read_stored(source)
        if source.resolve() != (beside / RUNS).resolve():
            write_text(beside / RUNS, source.read_text(encoding="utf-8"))
    else:
        write_stored(beside / RUNS, source)
        stored = read_stored(beside / RUNS)
    study = Study(plan, stored)
    tables = [table for table in all_tables(study) if table.rows]
    write_text(folder / "study.md", document(study, {table.label: table for table in tables}))
    write_text(beside / "study.tex", "\n".join(table.latex() for table in tables))
    write_text(beside / "study.csv", as_csv(stored.outcomes))
    titles = {name: recipe.title for name, recipe in plan.recipes.items()}
    values = {
        (set_name, name): list(study.by_seed(name, set_name).values())
        for set_name in study.trained_on
        for name in titles
    }
    draw_runs(titles, {name: plan.sets[name].title for name in study.trained_on}, values, beside / "runs.png")
    if plan.noise:
        first = study.trained_on[0]
        lines = {
            recipe.title: {
                share: values
                for share in (0.0, *plan.noise)
                if (values := list(study.by_seed(name, first, share).values()))
            }
            for name, recipe in plan.recipes.items()
            if recipe.with_noise
        }
        draw_noise(lines, plan.sets[first].title, beside / "noise.png")


def document(study: Study, tables: Mapping[str, Table]) -> str:
    """The text of `study.md`."""
    plan, seeds = study.plan, sorted({one.seed for one in study.stored.outcomes if one.trained_on})
    pictures = dict(PICTURES)  # each after the first table of its kind
    about = [f"- {one.title}: {one.about}" for one in plan.recipes.values() if one.about]
    parts = [
        f"# {plan.title}",
        plan.text.strip(),
        "\n".join(about),
        f"Measured on: {study.stored.machine}. Seeds: {', '.join(map(str, seeds))}. {READING}",
    ]
    for table in tables.values():
        parts += [f"## {table.caption}", table.markdown()]
        kind = table.label.partition(".")[0]
        if kind == "in-domain":
            parts.append(cost_sentence(study, table.label.partition(".")[2]))
        if kind in pictures:
            parts.append(pictures.pop(kind))
    sources = {FACTS[one.reported].source for one in plan.recipes.values() if one.reported}
    if sources and any("reported" in column for one in tables.values() for column in one.header):
        parts.append("Reported figures are of: " + "; ".join(sorted(sources)) + ".")
    return "\n\n".join(part for part in parts if part) + "\n"
