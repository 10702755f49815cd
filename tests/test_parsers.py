"""Whatever a person may type: parsers read it back as it was meant, or refuse it in a sentence."""

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as some

from tune_sam.errors import Refused, masked
from tune_sam.settings import SearchOptions
from tune_sam.space import LogRange, Values, parse_values

settings.register_profile("tests", derandomize=True, max_examples=50, deadline=None, database=None)
settings.load_profile("tests")

POSITIVE = some.floats(1e-300, 1e300)
SECRET = some.text("abcXYZ012%+", min_size=1).map(lambda text: f"s3cret-{text}")


@given(some.lists(POSITIVE, min_size=1, max_size=6))
def test_values_read_back_as_they_are(values):
    found = parse_values(",".join(map(repr, values)))
    assert found == Values(tuple(sorted(set(values)))) == parse_values(values)
    assert parse_values(str(found)) == found


@given(POSITIVE, POSITIVE)
def test_a_range_reads_back_or_says_what_is_wrong(low, high):
    if low < high:
        assert parse_values(f"{low!r}:{high!r}") == LogRange(low, high)
    else:
        with pytest.raises(ValueError, match="must come first|equal"):
            parse_values(f"{low!r}:{high!r}")


@given(some.text())
def test_any_text_is_values_above_zero_or_refused(text):
    try:
        found = parse_values(text)
    except ValueError:
        return
    values = found.points if isinstance(found, Values) else (found.low, found.high)
    assert values
    assert all(0 < value < math.inf for value in values)


@given(SECRET, SECRET, some.sampled_from(["postgresql", "s3", "http"]))
def test_no_login_of_a_uri_is_shown(user, password, scheme):
    shown = masked(f"{scheme}://{user}:{password}@host:5432/place?region=a")
    assert shown == f"{scheme}://***@host:5432/place?region=a"


@given(SECRET, some.sampled_from(["access_key", "secret_key", "token", "password", "user"]), some.sampled_from("?&"))
def test_no_secret_among_a_uris_options_is_shown(secret, option, before):
    assert masked(f"s3://bucket/path{before}{option}={secret}&region=a").endswith(f"{before}{option}=***&region=a")


@given(some.text(some.characters(exclude_characters="@=:?&")))
def test_a_text_without_a_login_stays_as_it_is(text):
    assert masked(text) == text


@given(some.text(min_size=1, max_size=20))
def test_a_study_name_is_one_that_can_be_a_folder_or_is_refused(name):
    plain = name[0].isalnum() and all(character.isalnum() or character in "-_." for character in name)
    if plain:
        assert SearchOptions.read({"workload": "gcn", "name": name}).name == name
    else:
        with pytest.raises(Refused, match="--name|name"):
            SearchOptions.read({"workload": "gcn", "name": name})


OPTIONS = some.fixed_dictionaries(
    {},
    optional={
        "trials": some.integers(1, 1000),
        "epochs": some.integers(1, 1000),
        "seed": some.integers(0, 2**31 - 1),
        "batch_size": some.lists(some.integers(1, 512), min_size=1, max_size=4),
        "lr": some.tuples(some.floats(1e-6, 1e-2), some.floats(1.1, 100)).map(
            lambda ends: f"{ends[0]}:{ends[0] * ends[1]}"
        ),
        "scheduler": some.sampled_from(["asha", "none"]),
        "compile": some.booleans(),
    },
)


@given(OPTIONS)
def test_options_in_a_yaml_file_are_those_given_as_keywords(tmp_path_factory, options):
    file = tmp_path_factory.mktemp("options") / "study.yaml"
    file.write_text(yaml.safe_dump(options))
    assert SearchOptions.read({"workload": "gcn"}, file) == SearchOptions.read({"workload": "gcn", **options})


@given(
    some.text(some.characters(categories=["Ll"]), min_size=1).filter(
        lambda name: name not in SearchOptions.model_fields
    )
)
def test_an_option_that_is_none_is_named(tmp_path_factory, name):
    file = tmp_path_factory.mktemp("options") / "study.yaml"
    file.write_text(yaml.safe_dump({name: 1}, allow_unicode=True), encoding="utf-8")
    with pytest.raises(Refused, match=name):
        SearchOptions.read({"workload": "gcn"}, file)
