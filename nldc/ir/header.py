"""The part of a file before its nodes: version, name, promise, params and adapters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nldc.diagnostics import Diagnostic, Label, StrategyError, nearest
from nldc.ir.attributes import NO_PRESET, PRESETS
from nldc.ir.by_request import Declared, RuntimeParam
from nldc.ir.graph import Adapter, Guarantee, Setting
from nldc.ir.taper import Profile, bad_profile
from nldc.ir.words import NAME, PARAM, RULE
from nldc.schema import Adapter as AdapterModel
from nldc.schema import FloatParam, IntParam, Limits, ProfileParam, StrategyFile
from nldc.shape import MISSING_KEY, UNKNOWN_KEY, WRONG_VALUE, fit
from nldc.source import Path, Source

BAD_PARAM = "NLD014"
VERSION = "NLD015"
SETTING = "NLD016"
BAD_NAME = "NLD018"

GUARANTEES: tuple[Guarantee, ...] = ("exact", "distribution", "none")
KEYS = (*StrategyFile.model_fields, "extends", "fragments")
"""Keys that a file may have; the last two are gone when it has been put together."""
REQUIRED = ("nldc", "name", "summary", "guarantee", "prefill")
FORMS = {
    "nldc": "write `nldc: 1`, the version of the language",
    "name": f"write `name: my_strategy`: {RULE}",
    "summary": "write `summary: A sentence that says what it does.`",
    "guarantee": "write `guarantee: exact`, `guarantee: distribution` or `guarantee: none`",
    "prefill": "write `prefill:` with nodes that read `$prompt`, as `nldc explain ar` shows them",
}
"""What may stand for each required key, for who left it out."""
PARAM_TYPES = ("int", "float", "profile")


@dataclass(frozen=True)
class Header:
    """What the head of the file says, with the values of the params that are compiled in.

    `checkpoint_params` are those that follow a checkpoint, with the key of its config. `broken` are
    params that are declared wrongly: nothing that uses them is at fault. `profiles` are the params
    that are acceptance profiles, and no numbers; `runtime` those that requests bring, of which
    `params` has the defaults.
    """

    name: str = "unnamed"
    summary: str = ""
    guarantee: Guarantee = "none"
    params: Mapping[str, int | float] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    adapters: tuple[Adapter, ...] = ()
    compat: str | None = None
    checkpoint_params: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    runtime: Declared = field(default_factory=dict)


def read_header(source: Source, settings: Mapping[str, Setting], found: list[Diagnostic]) -> Header:
    """Read the head of the file; mistakes are added to `found`.

    Raises:
        StrategyError: a setting names no param, or lies outside its bounds.
    """
    data = source.data
    if not isinstance(data, Mapping):
        found.append(_error(source, WRONG_VALUE, "a strategy is a mapping", (), "not a mapping"))
        return Header()
    misspelt = set()
    for key in data:
        if key not in StrategyFile.model_fields:
            meant = nearest(str(key), KEYS)
            misspelt.add(meant)
            label = f"did you mean `{meant}`?" if meant else "unknown"
            message = f"a strategy has no key `{key}`"
            keys = ", ".join(f"`{name}`" for name in KEYS)
            found.append(
                _error(source, UNKNOWN_KEY, message, (key,), label, True, f"the keys are {keys}")
            )
    for key in REQUIRED if "extends" not in misspelt else ():
        if key not in data and key not in misspelt:
            message = f"the strategy lacks `{key}`"
            found.append(
                _error(source, MISSING_KEY, message, (), f"`{key}` is required", True, FORMS[key])
            )
    version = data.get("nldc", 1)
    if version != 1 or isinstance(version, bool):
        message = f"version {version} of the language is unknown"
        found.append(_error(source, VERSION, message, ("nldc",), "this compiler reads version 1"))
    values = _params(source, settings, found)
    params = {name: value for name, value in values.items() if not isinstance(value, tuple)}
    return Header(
        name=_name(source, found),
        summary=_text(source, "summary", found),
        guarantee=_guarantee(source, found),
        params=params,
        broken=frozenset(map(str, _mapping(source, "params", []))) - set(values),
        adapters=_adapters(source, found),
        compat=_compat(source, found),
        checkpoint_params=followed(source, params),
        limits=_limits(source, found),
        profiles={name: value for name, value in values.items() if isinstance(value, tuple)},
        runtime=_by_request(source, params),
    )


def _name(source: Source, found: list[Diagnostic]) -> str:
    name = source.data.get("name", "unnamed")
    if isinstance(name, str) and NAME.fullmatch(name):
        return name
    message = f"`{name}` cannot name a strategy"
    found.append(_error(source, BAD_NAME, message, ("name",), "not a name", False, RULE))
    return "unnamed"


def _text(source: Source, key: str, found: list[Diagnostic]) -> str:
    text = source.data.get(key, "")
    if isinstance(text, str):
        return text
    found.append(_error(source, WRONG_VALUE, f"`{key}` is not text", (key,), "expected a sentence"))
    return ""


def _guarantee(source: Source, found: list[Diagnostic]) -> Guarantee:
    claimed = source.data.get("guarantee", "none")
    for guarantee in GUARANTEES:
        if claimed == guarantee:
            return guarantee
    meant = nearest(str(claimed), GUARANTEES)
    label = f"did you mean `{meant}`?" if meant else "expected `exact`, `distribution` or `none`"
    message = f"`{claimed}` is no guarantee"
    found.append(_error(source, WRONG_VALUE, message, ("guarantee",), label))
    return "none"


def _compat(source: Source, found: list[Diagnostic]) -> str | None:
    named = source.data.get("compat")
    if named is None or named in PRESETS:
        return named
    meant = nearest(str(named), PRESETS)
    known = ", ".join(f"`{name}`" for name in PRESETS)
    label = f"did you mean `{meant}`?" if meant else f"expected one of {known}"
    message = f"`{named}` is no preset of an engine"
    found.append(_error(source, NO_PRESET, message, ("compat",), label))
    return None


def _params(
    source: Source, settings: Mapping[str, Setting], found: list[Diagnostic]
) -> dict[str, Setting]:
    declared = _mapping(source, "params", found)
    values: dict[str, Setting] = {}
    bounds: dict[str, Any] = {}
    for name, data in declared.items():
        path: Path = ("params", name)
        if not isinstance(name, str) or not NAME.fullmatch(name):
            message = f"`{name}` cannot name a param"
            found.append(_error(source, BAD_NAME, message, path, RULE, True))
            continue
        if name in PARAM:
            message = f"`{name}` is a reserved name"
            found.append(_error(source, BAD_NAME, message, path, "choose another", True))
            continue
        type_ = data.get("type") if isinstance(data, Mapping) else None
        if not isinstance(data, Mapping) or type_ not in PARAM_TYPES:
            place = (*path, "type") if isinstance(data, Mapping) and "type" in data else path
            message = f"param `{name}` has no type" if type_ is None else f"`{type_}` is no type"
            help_text = f"write it as `{name}: {_param_form(data)}`"
            label = "`int`, `float` or `profile`"
            found.append(_error(source, BAD_PARAM, message, place, label, False, help_text))
            continue
        if type_ == "profile":
            profile = fit(source, path, ProfileParam, found, f"param `{name}`")
            if profile is not None and _is_profile(source, name, profile, found):
                values[name], bounds[name] = tuple(map(tuple, profile.default)), profile
            continue
        model: IntParam | FloatParam | None
        if type_ == "int":
            model = fit(source, path, IntParam, found, f"param `{name}`")
        else:
            model = fit(source, path, FloatParam, found, f"param `{name}`")
        if model is None:
            continue
        _check_declared(source, name, model, found)
        values[name], bounds[name] = model.default, model
    for name, value in settings.items():
        values[name] = _setting(name, value, bounds)
    return values


def _is_profile(source: Source, name: str, model: ProfileParam, found: list[Diagnostic]) -> bool:
    problem = bad_profile(model.default)
    if problem is not None:
        path: Path = ("params", name, "default")
        message = f"the profile of `{name}` {problem}"
        found.append(_error(source, BAD_PARAM, message, path, "numbers of steps are needed here"))
    return problem is None


def _param_form(data: object) -> str:
    """Return the whole form of a param, with the numbers that are there."""
    given = data.get("default") if isinstance(data, Mapping) else data
    bounds = data if isinstance(data, Mapping) else {}
    if isinstance(given, float) and math.isfinite(given):
        low, high = min(0.0, given), max(1.0, given)
        type_ = "float"
    else:
        is_whole = isinstance(given, int) and not isinstance(given, bool)
        given = given if is_whole and isinstance(given, int) else 6
        low, high = min(1, given), max(64, given)
        type_ = "int"
    low, high = bounds.get("min", low), bounds.get("max", high)
    return f"{{type: {type_}, default: {given}, min: {low}, max: {high}}}"


def followed(source: Source, params: Iterable[str]) -> dict[str, str]:
    """Return, of these params, those that follow a checkpoint, each with the key of its config."""
    declared = source.data["params"] if params else {}
    keys = {name: declared[name].get("checkpoint") for name in params}
    return {name: str(key) for name, key in keys.items() if key is not None}


def _by_request(source: Source, params: Mapping[str, int | float]) -> dict[str, RuntimeParam]:
    """Return, of these params, those that requests bring, with their bounds."""
    declared = source.data["params"] if params else {}
    return {
        name: RuntimeParam(
            own["type"],
            value,
            type(value)(own["min"]),
            type(value)(own["max"]),
            str(own.get("help", "")),
        )
        for name, value in params.items()
        for own in [declared[name]]
        if own.get("runtime")
    }


def _check_declared(
    source: Source, name: str, model: IntParam | FloatParam, found: list[Diagnostic]
) -> None:
    numbers = {"default": model.default, "min": model.min, "max": model.max}
    for key, number in numbers.items():
        if not math.isfinite(number) or abs(number) > 2**31 - 1:
            message = f"`{key}` of param `{name}` is too large"
            found.append(_error(source, BAD_PARAM, message, ("params", name, key), "too large"))
            return
    if model.min > model.max:
        message = f"the bounds of `{name}` leave nothing between {model.min} and {model.max}"
        label = f"more than the max, {model.max}"
        found.append(_error(source, BAD_PARAM, message, ("params", name, "min"), label))
        return
    if model.runtime and isinstance(model, IntParam) and model.checkpoint is not None:
        message = f"`{name}` follows a checkpoint, and no request can bring it"
        path: Path = ("params", name, "checkpoint")
        found.append(_error(source, BAD_PARAM, message, path, "known when a model is", True))
        return
    if model.min <= model.default <= model.max:
        return
    message = f"the default of `{name}` is not between {model.min} and {model.max}"
    found.append(
        _error(source, BAD_PARAM, message, ("params", name, "default"), "outside its own bounds")
    )


def _setting(name: str, value: Setting, bounds: Mapping[str, Any]) -> Setting:
    model = bounds.get(name)
    if model is None:
        meant = nearest(name, bounds)
        help_text = f"did you mean `{meant}`?" if meant else f"the params are {', '.join(bounds)}"
        help_lines = (help_text,) if bounds else ("this strategy has no params",)
        message = f"there is no param `{name}` to set"
        raise StrategyError([Diagnostic(SETTING, "error", message, (), help_lines)])
    if isinstance(model, ProfileParam) or isinstance(value, tuple):
        return _profile(name, value, model)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(model, IntParam) and not whole:
        message = f"`{name}` is a whole number, not {value}"
        raise StrategyError([Diagnostic(SETTING, "error", message)])
    if not model.min <= value <= model.max:
        message = f"`{name}` = {value} is not between {model.min} and {model.max}"
        raise StrategyError([Diagnostic(SETTING, "error", message)])
    return value if whole and isinstance(model, IntParam) else float(value)


def _profile(name: str, value: Setting, model: object) -> Profile:
    if not isinstance(model, ProfileParam):
        message = f"`{name}` is a number, and no acceptance profile"
        raise StrategyError([Diagnostic(SETTING, "error", message)])
    if not isinstance(value, tuple):
        message = f"`{name}` is an acceptance profile, and no number"
        help_text = "give its file with --acceptance FILE"
        raise StrategyError([Diagnostic(SETTING, "error", message, (), (help_text,))])
    problem = bad_profile(value)
    if problem is not None:
        raise StrategyError([Diagnostic(SETTING, "error", f"the profile of `{name}` {problem}")])
    return value


def _adapters(source: Source, found: list[Diagnostic]) -> tuple[Adapter, ...]:
    adapters: list[Adapter] = []
    for name in _mapping(source, "adapters", found):
        path: Path = ("adapters", name)
        if not isinstance(name, str) or not NAME.fullmatch(name):
            message = f"`{name}` cannot name an adapter"
            found.append(_error(source, BAD_NAME, message, path, RULE, True))
            continue
        model = fit(source, path, AdapterModel, found, f"adapter `{name}`")
        if model is not None:
            adapters.append(Adapter(name, model.optional, model.kind))
    return tuple(adapters)


def _limits(source: Source, found: list[Diagnostic]) -> dict[str, int]:
    if source.data.get("limits") is None:
        return {}
    model = fit(source, ("limits",), Limits, found, "`limits`")
    return {} if model is None else model.model_dump(exclude_none=True)


def _mapping(source: Source, key: str, found: list[Diagnostic]) -> Mapping[Any, Any]:
    data = source.data.get(key)
    if data is None:
        return {}
    if isinstance(data, Mapping):
        return data
    found.append(
        _error(
            source, WRONG_VALUE, f"`{key}` is not a mapping", (key,), "expected names and values"
        )
    )
    return {}


def _error(
    source: Source,
    code: str,
    message: str,
    path: Path,
    label: str,
    key: bool = False,
    help_text: str | None = None,
) -> Diagnostic:
    help_lines = () if help_text is None else (help_text,)
    return Diagnostic(
        code, "error", message, (Label(source.span(path, key=key), label),), help_lines
    )
