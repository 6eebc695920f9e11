"""The tables of a study."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from misc.study.outcome import Cost, Outcome, Stored
from misc.study.plan import TRANSFER, Plan, Recipe
from misc.study.published import FACTS, Published
from misc.study.statistics import Paired, Summary
from misc.study.tables import Table

NONE = "-"


@dataclass(frozen=True)
class Study:
    """A plan with its outcomes."""

    plan: Plan
    stored: Stored

    def runs(self, recipe: str, trained_on: str, noise: float = 0.0) -> list[Outcome]:
        """The runs of a recipe that have figures."""
        found = (one for one in self.stored.outcomes if one.failure is None)
        key = (recipe, trained_on, noise)
        return [one for one in found if (one.recipe, one.trained_on, one.noise) == key]

    def costs(self, recipe: str, trained_on: str) -> list[Cost]:
        """Of its runs with wrong captions and without, of one number of samples."""
        runs = [run for noise in (0.0, *self.plan.noise) for run in self.runs(recipe, trained_on, noise)]
        costs = [run.cost for run in runs if run.cost]
        return [cost for cost in costs if cost.num_samples == costs[0].num_samples]

    def by_seed(self, recipe: str, trained_on: str, noise: float = 0.0) -> dict[int, float]:
        """R@1 on its own set, with the epoch that was picked, by seed."""
        return {one.seed: one.figures[trained_on]["R1"] for one in self.runs(recipe, trained_on, noise)}

    @property
    def trained_on(self) -> list[str]:
        """The sets that recipes are trained on."""
        return [name for name, one in self.plan.sets.items() if one.train]


def all_tables(study: Study) -> list[Table]:
    """Every table of a study; those without rows have nothing to say."""
    sets = study.trained_on
    return [
        *(in_domain(study, name) for name in sets),
        *(cross_domain(study, name) for name in sets),
        *(under_noise(study, name) for name in sets if study.plan.noise),
        transfer(study),
        *(paired(study, name) for name in sets),
        divisions(study),
        failures(study),
    ]


def in_domain(study: Study, set_name: str) -> Table:
    """The figures on the set that the recipes are trained on, and what they cost."""
    data, rows = study.plan.sets[set_name], []
    is_reported = data.reported is not None
    for name, recipe in study.plan.recipes.items():
        runs = study.runs(name, set_name)
        chosen = [_mean(runs, lambda one, key=key: one.figures[set_name].get(key)) for key in ("R1", "mAP")]
        if runs and runs[0].select_on == "last":
            chosen = [f"{cell} (last epoch)" for cell in chosen]
        by_test = [_mean(runs, lambda one, key=key: (one.on_test or {}).get(key)) for key in ("R1", "mAP")]
        facts = _published(recipe).sets.get(data.reported, [None] * 4)
        said = [_figure(facts[0]), _figure(facts[3])]
        costs = _costs(study.costs(name, set_name))
        rows.append([recipe.title, *costs, *chosen, *by_test, *(said if is_reported else ())])
    header = ["recipe", "samples", "seconds", "memory"]
    header += [f"{name} by {split}" for split in ("val", "test") for name in ("R@1", "mAP")]
    header += ["R@1 reported", "mAP reported"] if is_reported else []
    return Table(f"in-domain.{set_name}", f"Trained and tested on {data.title}", header, rows)


def _costs(costs: Sequence[Cost]) -> list[str]:
    if not costs:
        return [NONE] * 3
    seconds = [cost.seconds for cost in costs]
    spread = f" (to {max(seconds):.0f})" if len(seconds) > 1 else ""
    memory = f"{max(cost.peak_bytes for cost in costs) / 1e9:.2f} GB"
    return [f"{costs[0].num_samples:,}", f"{min(seconds):.0f}{spread}", memory]


def _mean(runs: Iterable[Outcome], value: Callable[[Outcome], float | None]) -> str:
    """Of the runs that have this figure."""
    values = [found for one in runs if (found := value(one)) is not None]
    return str(Summary.of(values)) if values else NONE


def _published(recipe: Recipe) -> Published:
    """What is published of a recipe; nothing of others."""
    return FACTS[recipe.reported] if recipe.reported else Published("", {})


def _figure(fact: float | None) -> str:
    return NONE if fact is None else f"{fact:.2f}"


def cost_sentence(study: Study, set_name: str) -> str:
    """What the columns of cost hold, and how far the recipes are apart in them."""
    recipes, sentences = study.plan.recipes, []
    for whose, is_variant in (("The recipes", False), ("Their variants", True)):
        seconds = {
            one.title: min(cost.seconds for cost in costs)
            for name, one in recipes.items()
            if (one.against is not None) == is_variant and (costs := study.costs(name, set_name))
        }
        if not is_variant:
            mean = statistics.mean(seconds.values()) if seconds else 0.0
        if len(seconds) > 1 or (seconds and sentences):
            low, high = (pick(seconds, key=seconds.__getitem__) for pick in (min, max))
            sentences.append(
                f" {whose} are within {seconds[low] / mean - 1:+.1%} ({low}) and "
                f"{seconds[high] / mean - 1:+.1%} ({high}) of the recipes' mean."
            )
    return (
        '"Seconds": what the steps took, data included, evaluations, divisions of the samples and '
        "checkpoints left out (CPU seconds, or seconds of all GPUs of a run): the least that any run of the "
        "recipe took, with wrong captions or without, since what else a machine does can only add to it; in "
        f'brackets the most.{"".join(sentences)} "Memory": the most that a process held, of tensors on a '
        "GPU, else of everything."
    )


def cross_domain(study: Study, set_name: str) -> Table:
    """R@1 on the other sets."""
    others = {name: one for name, one in study.plan.sets.items() if name != set_name}
    rows = []
    for name, recipe in study.plan.recipes.items():
        runs, cells = study.runs(name, set_name), []
        for other, data in others.items():
            for key in ("R1", "mAP"):
                cells.append(
                    _mean(runs, lambda one, other=other, key=key: one.figures.get(other, {}).get(key))
                )
            if data.reported:
                facts = _published(recipe).cross.get(study.plan.sets[set_name].reported, {})
                cells.append(_figure(facts.get(data.reported)))
        rows.append([recipe.title, *cells])
    header = ["recipe"]
    for data in others.values():
        header += [f"{data.title}: R@1", "mAP", *(["reported"] if data.reported else [])]
    title = f"Cross-domain: trained on {study.plan.sets[set_name].title}, tested on others (epoch by val)"
    return Table(f"cross.{set_name}", title, header, rows if others else [])


def under_noise(study: Study, set_name: str) -> Table:
    """R@1 where a share of the training captions is exchanged."""
    data, shares = study.plan.sets[set_name], (0.0, *study.plan.noise)
    rows = []
    for name, recipe in study.plan.recipes.items():
        if not recipe.with_noise:
            continue
        cells = []
        for share in shares:
            values = study.by_seed(name, set_name, share).values()
            cells.append(str(Summary.of(list(values))) if values else NONE)
            if share and data.reported:
                facts = _published(recipe).noise.get(data.reported, {})
                cells.append(_figure(facts.get(f"{share:g}")))
        rows.append([recipe.title, *cells])
    header = ["recipe"]
    for share in shares:
        header += [f"{100 * share:g} %", *(["reported"] if share and data.reported else [])]
    title = f"Wrong captions in training on {data.title}: R@1 by val, by their share"
    return Table(f"noise.{set_name}", title, header, rows)


def transfer(study: Study) -> Table:
    """Weights that are tested as they are."""
    runs = [one for one in study.stored.outcomes if one.recipe == TRANSFER and not one.failure]
    rows = [
        [one.title, *(f"{one.figures[name][key]:.2f}" for name in study.plan.sets for key in ("R1", "mAP"))]
        for one in runs
    ]
    header = ["weights", *(cell for one in study.plan.sets.values() for cell in (f"{one.title}: R@1", "mAP"))]
    return Table("transfer", "Direct transfer: weights tested without training on a set", header, rows)


def paired(study: Study, set_name: str) -> Table:
    """Recipes compared seed by seed, in R@1 with the epoch that val picked."""
    rows = []
    for name, other in _pairs(study.plan):
        for share in (0.0, *study.plan.noise):
            found = Paired.of(study.by_seed(name, set_name, share), study.by_seed(other, set_name, share))
            if found:
                rows.append(_paired_row(study.plan, name, other, share, found))
    header = [
        "recipes",
        "wrong captions",
        "differences",
        "mean ± deviation",
        "95 % interval",
        "spread",
        "verdict",
    ]
    title = f"Compared seed by seed on {study.plan.sets[set_name].title}: differences in R@1 by val"
    return Table(f"paired.{set_name}", title, header, rows)


def _pairs(plan: Plan) -> list[tuple[str, str]]:
    """Ours with each of the others, then the recipes with what they are compared with."""
    others = [name for name, one in plan.recipes.items() if name != plan.ours and one.against is None]
    ours = [(plan.ours, name) for name in others] if plan.ours in plan.recipes else []
    own = [(name, one.against) for name, one in plan.recipes.items() if one.against in plan.recipes]
    return list(dict.fromkeys(ours + own))


def _paired_row(plan: Plan, name: str, other: str, share: float, found: Paired) -> list[str]:
    low, high = found.interval()
    return [
        f"{plan.recipes[name].title} - {plan.recipes[other].title}",
        f"{100 * share:g} %",
        ", ".join(f"{value:+.2f}" for value in found.by_seed.values()),
        str(found.summary),
        f"{low:+.2f} to {high:+.2f}",
        f"{found.spread:.2f}",
        found.verdict(),
    ]


def divisions(study: Study) -> Table:
    """What the last division of the samples called noisy (RDE), in the mean of the seeds."""
    rows = []
    for name, recipe in study.plan.recipes.items():
        for set_name in study.trained_on:
            for share in (0.0, *study.plan.noise):
                found = [one.division for one in study.runs(name, set_name, share) if one.division]
                if found:
                    place = [recipe.title, study.plan.sets[set_name].title, f"{100 * share:g} %"]
                    rows.append(
                        [*place, *(_share(found, key) for key in ("noisy_share", "precision", "recall"))]
                    )
    header = ["recipe", "set", "wrong captions", "called noisy", "of these, wrong", "of the wrong, found"]
    return Table("division", "Consensus division before the last epoch", header, rows)


def _share(found: Iterable[Mapping[str, float | None]], key: str) -> str:
    known = [100 * one[key] for one in found if one[key] is not None]
    return f"{statistics.mean(known):.1f} %" if known else NONE


def failures(study: Study) -> Table:
    """Runs without figures, with the reason."""
    rows = [
        [one.title, one.trained_on or NONE, f"{100 * one.noise:g} %", str(one.seed), one.failure]
        for one in study.stored.outcomes
        if one.failure
    ]
    return Table(
        "failed", "Runs without figures", ["recipe", "set", "wrong captions", "seed", "reason"], rows
    )
