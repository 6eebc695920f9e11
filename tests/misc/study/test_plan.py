"""Plans: what they are read as, what is wrong with them, and the runs that they ask for."""

from pathlib import Path

import pytest
import yaml

from misc.study.expand import pretraining_run, training_runs, transfer_runs
from misc.study.plan import Plan, narrowed, quickened, read_plan, with_variants
from misc.study.published import FACTS
from misc.verify_release import PUBLISHED
from options import UserError

PLANS = sorted(Path("config/studies").glob("*.yaml"))
CONTENT = {
    "title": "A study",
    "text": "Of little.",
    "options": ["misc.device=cpu", "schedule.epoch=9"],
    "recipes": {
        "one": {
            "title": "One",
            "config": "../s.config.yaml",
            "options": ["schedule.epoch=3"],
            "options_for": {"here": ["schedule.lr=1e-3"], "0.5": ["schedule.lr=1e-2"]},
        },
        "two": {"title": "Two", "config": "../irra.yaml", "against": "one", "with_noise": False},
    },
    "sets": {
        "here": {"title": "Here", "options": ["data.annotation_file=a", "data.image_root=b"]},
        "there": {
            "title": "There",
            "options": ["data.annotation_file=c", "data.image_root=d"],
            "train": False,
        },
    },
    "noise": [0.5],
    "seeds": [3, 4],
    "quick": {"options": ["data.few_shot=0.5"], "seeds": [7]},
    "pretraining": {"title": "First", "config": "../study.yaml", "processes": 2},
}


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    for name in ("s.config", "config", "irra", "study"):
        (tmp_path / f"{name}.yaml").symlink_to(Path(f"config/{name}.yaml").resolve())
    (tmp_path / "plans").mkdir()
    path = tmp_path / "plans" / "plan.yaml"
    path.write_text(yaml.safe_dump(CONTENT), encoding="utf-8")
    return path


@pytest.fixture
def plan(plan_file: Path) -> Plan:
    return read_plan(plan_file)


def test_every_recipe_is_trained_on_every_set_with_every_seed_and_share(plan: Plan, tmp_path: Path) -> None:
    runs = {run.name: run for run in training_runs(plan, tmp_path)}
    assert list(runs) == [
        *("one-here-3", "two-here-3", "one-here-4", "two-here-4"),
        *("one-here-noise0.5-3", "one-here-noise0.5-4"),
    ]
    clean, noisy = runs["one-here-4"].options(), runs["one-here-noise0.5-4"].options()
    assert clean.misc.seed == noisy.misc.seed == 4
    assert (clean.data.noise, noisy.data.noise) == (None, 0.5)
    assert clean.schedule.epoch == 3, "the recipe's options beat the plan's"
    assert runs["two-here-3"].options().schedule.epoch == 9
    assert (clean.schedule.lr, noisy.schedule.lr) == (1e-3, 1e-2), "of the set; then of the share"
    assert clean.eval.test_sets == {"there": ("c", "d")}
    assert clean.model.clip_pretrained == str(tmp_path / "pretraining/checkpoint_best.pth")
    assert clean.output.dir == str(tmp_path / "one-here-4")
    assert runs["two-here-3"].options().experiment.mlm, "its own options file"


def test_the_pretraining_is_also_tested_as_it_is(plan: Plan, tmp_path: Path) -> None:
    first = pretraining_run(plan, tmp_path)
    assert (first.name, first.processes, first.options().output.dir) == (
        *("pretraining", 2),
        str(tmp_path / "pretraining"),
    )
    (transfer,) = transfer_runs(plan, tmp_path)
    assert transfer.evaluates == f"{first.options().output.dir}/checkpoint_best.pth"
    assert transfer.tested_on == "here"
    assert transfer.options().eval.test_sets == {"there": ("c", "d")}


def test_a_study_can_be_narrowed_and_have_further_recipes(plan: Plan, tmp_path: Path) -> None:
    words = ["slow", "one", "schedule.lr=1e-9", "schedule.epoch=1"]
    varied = with_variants(plan, [words])
    chosen = narrowed(varied, recipes=["slow"], seeds=[5], noise=[0.0])
    (run,) = training_runs(chosen, tmp_path)
    assert (run.name, run.options().schedule.epoch) == ("slow-here-5", 1)
    assert varied.recipes["slow"].against == "one"
    assert list(narrowed(plan, recipes=["two", "one"]).recipes) == ["one", "two"], "in the plan's order"
    there = narrowed(plan, sets=["there"], noise=[])
    assert {run.trained_on for run in training_runs(there, tmp_path)} == {"there"}
    assert next(training_runs(there, tmp_path)).options().eval.test_sets == {"here": ("a", "b")}


def test_the_short_form_has_its_own_seeds_and_options(plan: Plan, tmp_path: Path) -> None:
    short = quickened(plan)
    runs = list(training_runs(short, tmp_path))
    assert {run.seed for run in runs} == {7}
    assert {run.noise for run in runs} == {0.0}
    assert {run.options().data.few_shot for run in [*runs, pretraining_run(short, tmp_path)]} == {0.5}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"titel": "x"}, "no key 'titel' here; there are title, text"),
        ({"title": None}, "title: expected str, found None"),
        ({"seeds": [0, "1"]}, "seeds: expected int, found '1'"),
        ({"noise": 0.5}, "noise: expected tuple, found 0.5"),
        ({"ours": "three"}, "ours: no recipe 'three'"),
        ({"recipes": {"a b": {"title": "x", "config": "y"}}}, "'a b' is no name"),
        ({"recipes": {"a": {"title": "x"}}}, "recipes.a: lacks config"),
        ({"recipes": {"a": {"title": "x", "config": "y", "against": "b"}}}, "against: no recipe 'b'"),
        ({"recipes": {"a": {"title": "x", "config": "y", "reported": "b"}}}, "reported: no figures of 'b'"),
        ({"sets": {"a": {"title": "x", "options": [], "train": False}}}, "none is trained on"),
    ],
)
def test_a_wrong_plan_is_refused_in_one_line(plan_file: Path, change: dict[str, object], said: str) -> None:
    plan_file.write_text(yaml.safe_dump(CONTENT | change), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_plan(plan_file)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_names_that_the_plan_lacks_are_refused(plan: Plan) -> None:
    with pytest.raises(UserError, match="--recipes: no 'three' in the plan; there are one, two"):
        narrowed(plan, recipes=["one", "three"])
    for words in (["new"], ["new", "three", "schedule.epoch=1"], ["one", "two", "schedule.epoch=1"]):
        with pytest.raises(UserError, match="--variant"):
            with_variants(plan, [words])


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_run_of_the_plans_here_has_valid_options(path: Path, tmp_path: Path) -> None:
    for plan in (read_plan(path), quickened(read_plan(path))):
        runs = [*training_runs(plan, tmp_path), *transfer_runs(plan, tmp_path)]
        assert len({run.name for run in runs}) == len(runs)
        assert all(run.options() for run in runs)


def test_published_figures_are_percent_and_those_that_releases_are_verified_by() -> None:
    assert PUBLISHED["full"]["icfg-pedes"] == (65.05, 80.34, 85.47, 39.83)
    for facts in FACTS.values():
        assert facts.source
        for figures in facts.sets.values():
            known = [figure for figure in figures if figure is not None]
            assert len(figures) == 4
            assert known
            assert all(0 < figure < 100 for figure in known)
            assert known[:3] == sorted(known[:3])
