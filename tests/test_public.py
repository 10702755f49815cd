"""What `import tune_sam` offers."""

import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from types import ModuleType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

import tune_sam
from tune_sam.settings import SearchKeywords, SearchOptions

PUBLIC = [
    *(
        "search",
        "resume",
        "refit",
        "analyze",
        "report",
        "run",
        "status",
        "doctor",
        "check",
        "compare",
        "delete",
        "enqueue",
        "export",
        "import_",
    ),
    *("open_study", "studies", "workloads", "Study", "Trial", "Workload"),
    *("SAM", "ASAM", "ASAMAll", "spectrum", "Refused", "NothingComplete"),
]
FUNCTIONS = [name for name in PUBLIC if inspect.isfunction(getattr(tune_sam, name))]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there_and_listed(name):
    assert callable(getattr(tune_sam, name))
    assert name in tune_sam.__all__
    assert name in dir(tune_sam)


def test_every_listed_name_can_be_imported():
    assert {name for name in tune_sam.__all__ if not hasattr(tune_sam, name)} == set()


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'tune_sam' has no attribute 'serach'"):
        tune_sam.serach  # noqa: B018


def test_the_version_is_that_of_the_installed_package():
    assert tune_sam.__version__ == version("tune-sam")


def test_type_checkers_may_read_the_annotations():
    assert files("tune_sam").joinpath("py.typed").is_file()


def test_no_module_has_a_public_name():
    """Python sets a submodule as an attribute of its package, in the place of whatever has that name."""
    assert not {module.name for module in pkgutil.iter_modules(tune_sam.__path__)} & set(tune_sam.__all__)


def test_public_names_stay_what_they_are_when_all_modules_are_imported():
    before = {name: getattr(tune_sam, name) for name in PUBLIC}
    for module in pkgutil.walk_packages(tune_sam.__path__, "tune_sam."):
        if not module.name.startswith("tune_sam.trainables."):
            import_module(module.name)
    assert {name: getattr(tune_sam, name) for name in PUBLIC} == before
    assert isinstance(tune_sam.analysis, ModuleType)
    assert isinstance(tune_sam.trainables, ModuleType)


def test_the_import_loads_nothing_but_the_package():
    code = "import sys; before = set(sys.modules); import tune_sam; dir(tune_sam); print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} <= {"tune_sam", *sys.stdlib_module_names}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_says_what_each_of_its_arguments_is(name):
    function = getattr(tune_sam, name)
    assert function.__doc__
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.kind is not inspect.Parameter.VAR_KEYWORD
        assert parameter.annotation is not inspect.Parameter.empty
        assert f"{parameter.name}" in function.__doc__, parameter.name


@pytest.mark.parametrize("name", ["search", "run", "check"])
def test_a_search_takes_each_option_as_a_keyword_that_may_be_left_out(name):
    parameters = inspect.signature(getattr(tune_sam, name)).parameters
    for option, field in SearchOptions.model_fields.items():
        if option != "workload":
            assert parameters[option].default is None
            assert f"    {option}: {field.description}" in getattr(tune_sam, name).__doc__


def members(annotation):
    """What a value may be, one by one."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return {one for part in get_args(annotation) for one in members(part)}
    if get_origin(annotation) is Literal:
        return {Literal[value] for value in get_args(annotation)}
    return {annotation}


def takes(accepted, wanted):
    """Whether the annotation `accepted` lets a value of `wanted` through, which is no union."""
    if get_origin(wanted) is Literal:
        return accepted == wanted or isinstance(get_args(wanted)[0], accepted if isinstance(accepted, type) else ())
    return get_origin(accepted) is not Literal and issubclass(
        get_origin(wanted) or wanted, get_origin(accepted) or accepted
    )


def test_the_keywords_of_a_search_are_the_fields_of_its_options():
    keywords = get_type_hints(SearchKeywords)
    fields = {name: field for name, field in SearchOptions.model_fields.items() if name != "workload"}
    assert set(keywords) == set(fields)
    for name, field in fields.items():
        accepted = members(keywords[name])
        assert type(None) in accepted, name
        wanted = members(field.annotation)
        assert {one for one in wanted if not any(takes(other, one) for other in accepted)} == set(), name
        chosen = {one for one in accepted if get_origin(one) is Literal}
        assert chosen <= wanted, name


def test_what_the_keywords_of_a_search_take_is_taken():
    given: SearchKeywords = {
        "optimizers": ["base", "sam"],
        "rho": "0.01:1",
        "lr": [0.1, 0.01],
        "batch_size": [32, 64],
        "sampler": "grid",
        "ranges": {"sam": {"rho": 0.05}},
        "gpus_per_trial": "auto",
        "data": Path("data"),
        "home": "home",
    }
    assert isinstance(given, Mapping)
    chosen = SearchOptions.read({"workload": "gcn", **given})
    assert isinstance(chosen.optimizers, Sequence)
    assert (chosen.optimizers, chosen.batch_size, chosen.data) == (("base", "sam"), (32, 64), Path("data"))
    assert chosen.ranges["sam"].rho.points == (0.05,)


def test_a_keyword_that_is_no_option_is_refused_with_those_that_are():
    with pytest.raises(tune_sam.Refused, match="unknown option 'trails'; known options are .*trials"):
        tune_sam.search("gcn", **{"trails": 3})


def test_workloads_are_described_without_their_data():
    found: dict[str, Any] = {workload.name: workload.to_json() for workload in tune_sam.workloads()}
    assert {"attention", "gcn", "wideresnet"} <= set(found)
    assert found["gcn"]["parameters"] == 125_442
