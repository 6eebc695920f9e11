"""What a study compares: a plan in YAML.

A plan names recipes (each an options file with overrides), sets of data, shares of wrong captions and seeds.
Every combination is an ordinary run of main.py. `config/studies/` has two plans.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from misc.study.published import FACTS
from options import UserError

NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
PRETRAINING, TRANSFER = "pretraining", "transfer"


@dataclass(frozen=True)
class Recipe:
    """A row of the tables.

    Attributes:
        title: its name in the tables.
        config: the options file, a path from the plan's folder.
        options: overrides of it, `section.name=value`.
        options_for: further overrides for a set, by its name, or for wrong captions, by their share.
        about: a sentence for the report; where empty, there is none.
        against: the recipe that it is compared with, such as the one that it adds something to.
        with_noise: whether it is trained with wrong captions too.
        reported: its name among the published figures.
    """

    title: str
    config: str
    options: tuple[str, ...] = ()
    options_for: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    about: str = ""
    against: str | None = None
    with_noise: bool = True
    reported: str | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set: trained on, and tested on by the runs of all sets.

    Attributes:
        options: the overrides that name its files.
        train: whether recipes are trained on it; otherwise models are only tested on it.
        noise: `data.noise` for a share of wrong captions, in which `{share}` is replaced.
        reported: its name among the published figures.
    """

    title: str
    options: tuple[str, ...]
    train: bool = True
    noise: str = "{share}"
    reported: str | None = None


@dataclass(frozen=True)
class Start:
    """A training that comes first; the runs start from its best checkpoint, `model.clip_pretrained`."""

    title: str
    config: str
    options: tuple[str, ...] = ()
    processes: int = 1


@dataclass(frozen=True)
class Weights:
    """A checkpoint that is tested on every set as it is (direct transfer), with an options file."""

    title: str
    weights: str
    config: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quick:
    """What `--quick` changes: overrides of every run, the pretraining's too, seeds and shares."""

    options: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    noise: tuple[float, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A study.

    Attributes:
        text: of the report, in Markdown, before its tables.
        options: overrides of every run but the pretraining.
        ours: the recipe that the report compares with each of the others.
        folder: that of the plan's file.
    """

    title: str
    text: str
    recipes: Mapping[str, Recipe]
    sets: Mapping[str, DataSet]
    options: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    noise: tuple[float, ...] = ()
    ours: str | None = None
    pretraining: Start | None = None
    direct_transfer: Mapping[str, Weights] = field(default_factory=dict)
    quick: Quick = Quick()
    folder: Path = Path()


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        UserError: it cannot be read, has a key that plans do not have or a value of another type, or names a
            recipe or published figures that there are not.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--plan: '{path}' cannot be read as YAML ({error})") from error
    plan = replace(_build(Plan, content, f"--plan: '{path}'"), folder=path.resolve().parent)
    for kind, names in (("recipes", plan.recipes), ("sets", plan.sets)):
        for name in names:
            if not NAME.fullmatch(name) or name in (PRETRAINING, TRANSFER):
                raise UserError(f"--plan: '{path}': {kind}: '{name}' is no name of a-z, 0-9, '-' and '.'")
    for name, recipe in plan.recipes.items():
        if recipe.against is not None and recipe.against not in plan.recipes:
            raise UserError(f"--plan: '{path}': recipes.{name}.against: no recipe '{recipe.against}'")
        if recipe.reported is not None and recipe.reported not in FACTS:
            raise UserError(f"--plan: '{path}': recipes.{name}.reported: no figures of '{recipe.reported}'")
    if plan.ours is not None and plan.ours not in plan.recipes:
        raise UserError(f"--plan: '{path}': ours: no recipe '{plan.ours}'")
    if not any(one.train for one in plan.sets.values()):
        raise UserError(f"--plan: '{path}': sets: none is trained on")
    return plan


def _build(kind: type, content: object, place: str) -> Any:
    """The dataclass `kind` of a YAML mapping; raises UserError as `read_plan` does."""
    if not isinstance(content, dict):
        raise UserError(f"{place}: expected keys with values, found {type(content).__name__}")
    hints = typing.get_type_hints(kind)
    fields = {one.name: one for one in dataclasses.fields(kind) if one.name != "folder"}
    for name in content.keys() - fields.keys():
        raise UserError(f"{place}: no key {name!r} here; there are {', '.join(fields)}")
    missing = [
        name
        for name, one in fields.items()
        if name not in content and one.default is one.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{place}: lacks {', '.join(missing)}")
    return kind(**{name: _typed(hints[name], content[name], f"{place}: {name}") for name in content})


def _typed(hint: Any, value: object, place: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _typed(arguments[0], value, place)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, place)
    if origin is Mapping and isinstance(value, dict):
        return {str(key): _typed(arguments[1], item, f"{place}.{key}") for key, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(arguments[0], item, place) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise UserError(f"{place}: expected {getattr(origin or hint, '__name__', hint)}, found {value!r:.60}")
    return value


def with_variants(plan: Plan, variants: Sequence[Sequence[str]]) -> Plan:
    """The plan with further recipes: each a name, that of the recipe it changes, and overrides."""
    recipes = dict(plan.recipes)
    for words in variants:
        if len(words) < 3:
            raise UserError("--variant: expected NAME RECIPE section.name=value ...")
        name, base, *overrides = words
        if base not in recipes or name in recipes or not NAME.fullmatch(name):
            problem = f"no recipe '{base}'" if base not in recipes else f"'{name}' is taken, or not a-z0-9.-"
            raise UserError(f"--variant {name}: {problem}; there are {', '.join(recipes)}")
        title = f"{recipes[base].title}, {' '.join(overrides)}"
        options = (*recipes[base].options, *overrides)
        recipes[name] = replace(
            recipes[base], title=title, options=options, about="", against=base, reported=None
        )
    return replace(plan, recipes=recipes)


def quickened(plan: Plan) -> Plan:
    """The plan as `--quick` runs it."""
    quick = plan.quick
    start = plan.pretraining
    if start:
        start = replace(start, options=(*start.options, *quick.options))
    recipes = {  # after a recipe's own options, so that they hold for every run
        name: replace(recipe, options=(*recipe.options, *quick.options))
        for name, recipe in plan.recipes.items()
    }
    return replace(plan, recipes=recipes, seeds=quick.seeds, noise=quick.noise, pretraining=start)


def narrowed(
    plan: Plan,
    recipes: Sequence[str] | None = None,
    sets: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    noise: Sequence[float] | None = None,
) -> Plan:
    """The plan with these recipes, sets that are trained on, seeds and shares only; None: all.

    Raises:
        UserError: a name that the plan does not have.
    """
    for flag, chosen, known in (("--recipes", recipes, plan.recipes), ("--sets", sets, plan.sets)):
        if unknown := [name for name in chosen or () if name not in known]:
            raise UserError(f"{flag}: no '{unknown[0]}' in the plan; there are {', '.join(known)}")
    wanted = {name: one.train if sets is None else name in sets for name, one in plan.sets.items()}
    return replace(
        plan,
        recipes={name: one for name, one in plan.recipes.items() if recipes is None or name in recipes},
        sets={name: replace(one, train=wanted[name]) for name, one in plan.sets.items()},
        seeds=plan.seeds if seeds is None else tuple(dict.fromkeys(seeds)),
        noise=plan.noise if noise is None else tuple(dict.fromkeys(share for share in noise if share)),
    )
