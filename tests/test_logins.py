"""Addresses with logins: shown without, kept without, and found again with."""

import os
import pickle
from dataclasses import replace
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tune_sam.logins import masked, of_results, plain, remember, same_place, with_login, without_login
from tune_sam.study.records import open_study

settings.register_profile("tests", derandomize=True, max_examples=50, deadline=None, database=None)
settings.load_profile("tests")

ODD = some.text("ab1@/#% ü:?&+.", max_size=8).map(lambda text: f"S3{text}Z9")
CREDENTIALS = (
    *("password", "passwd", "pwd", "pass", "passphrase", "sslpassword", "user", "login", "auth", "authToken", "jwt"),
    *("sig", "signature", "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "SharedAccessSignature"),
    *(
        "token",
        "access_token",
        "api_key",
        "apikey",
        "AccountKey",
        "access_key",
        "secret",
        "secret_key",
        "client_secret",
    ),
)
SCHEMES = some.sampled_from(["postgresql", "http", "https", "s3", "mysql+pymysql"])


@given(SCHEMES, ODD)
def test_a_password_may_have_any_character_and_is_never_shown(scheme, password):
    address = f"{scheme}://me:{password}@host:5432/place"
    for text in (address, plain(address), f"no answer from {address}, try again", f"({plain(address)})"):
        assert "S3" not in masked(text)
        assert "Z9" not in masked(text)
        assert "me:" not in masked(text)
        assert "host:5432/place" in masked(text)


@given(SCHEMES, ODD)
def test_every_library_reads_the_login_of_a_plain_address_alike(scheme, password):
    found = urlsplit(plain(f"{scheme}://me:{password}@host:5432/place"))
    assert (found.scheme, found.username, found.hostname, found.port, found.path) == (
        scheme,
        "me",
        "host",
        5432,
        "/place",
    )
    assert unquote(found.password) == unquote(password)
    assert plain(found.geturl()) == found.geturl()


@given(SCHEMES, ODD)
def test_an_address_is_kept_without_its_login(scheme, password):
    for address in (f"{scheme}://me:{password}@host:5432/place", plain(f"{scheme}://me:{password}@host:5432/place")):
        assert without_login(address) == f"{scheme}://host:5432/place"
        assert same_place(address, f"{scheme}://host:5432/place/")


@pytest.mark.parametrize(
    "option",
    [
        "password",
        "passwd",
        "pwd",
        "pass",
        "pw",
        "passphrase",
        "sig",
        "signature",
        "X-Amz-Signature",
        "X-Amz-Credential",
        "X-Amz-Security-Token",
        "token",
        "access_token",
        "auth",
        "authToken",
        "api_key",
        "apikey",
        "AccountKey",
        "access_key",
        "secret",
        "secret_key",
        "client_secret",
        "jwt",
        "sslpassword",
        "SharedAccessSignature",
        "user",
        "login",
    ],
)
@pytest.mark.parametrize("secret", ["S3cret", "a/b", "a#b", "a%40b", "ü", "a+b=="])
def test_every_option_that_is_a_credential_is_hidden_and_not_kept(option, secret):
    for address in (f"https://h/p?{option}={secret}&region=a", f"https://h/p?region=a&{option}={secret}"):
        assert secret not in masked(address)
        assert "region=a" in masked(address)
        assert without_login(address) == "https://h/p?region=a"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("u:pw@host", "***@host"),
        ("cannot reach u:p/w#@host:1 now", "cannot reach ***@host:1 now"),
        ("host=h user=u password=a@b dbname=d", "host=h user=u password=*** dbname=d"),
        ("AWS_SECRET_ACCESS_KEY='a b'", "AWS_SECRET_ACCESS_KEY=***"),
        ("http://token@host/x", "http://***@host/x"),
        ("a (http://u:p w@host/x) and s3://k:s@b", "a (http://***@host/x) and s3://***@b"),
    ],
)
def test_logins_are_hidden_in_whatever_form(text, shown):
    assert masked(text) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize("password", ["2024/x", "2024?x", "2024#x", "/x", "12345/a@b"])
def test_a_password_of_digits_is_no_port(password):
    for scheme in ("postgresql", "s3"):
        assert without_login(f"{scheme}://me:{password}@host/place") == f"{scheme}://host/place"
    assert without_login("http://host:5000/a@b") == "http://host:5000/a@b", "of a tracking server"


@pytest.mark.parametrize(
    "address",
    [
        "/a/b@c:d",
        "sqlite:////home/a@b/m.db",
        "s3://bucket/ada@x/runs?region=a&scheme=http",
        "http://[::1]:5000/a@b",
        "postgresql://h1:1,h2:2/d?sslmode=require&sslkey=/a/b&passfile=/c",
        "abfss://container@account.dfs.core.windows.net/p",
        "http://host:5000",
        "{home}/studies",
        "",
    ],
)
def test_an_address_without_a_login_stays_as_it_is(address):
    assert plain(address) == without_login(address) == address


def test_the_login_given_in_this_process_or_by_the_variable_is_found_for_the_address(monkeypatch):
    assert with_login("http://one.example:1") == "http://one.example:1"
    remember("http://me:new pw@one.example:1/")
    assert with_login("http://one.example:1") == "http://me:new%20pw@one.example:1/"
    assert with_login("http://me:old@one.example:1") == "http://me:new%20pw@one.example:1/"
    assert with_login("http://two.example:1") == "http://two.example:1"
    monkeypatch.setenv("TUNE_SAM_TRACKING_URI", "postgresql://me:pw@two.example/d")
    assert with_login("postgresql://two.example/d") == "postgresql://me:pw@two.example/d"


def test_a_login_that_only_a_record_has_is_not_used():
    assert with_login("http://me:old@three.example:1") == "http://three.example:1"


def test_the_login_of_a_bucket_goes_to_the_environment(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "before")
    assert of_results("s3://KEY:record@bucket.example/p") == "s3://bucket.example/p"
    assert os.environ["AWS_ACCESS_KEY_ID"] == "before", "not from a record"
    remember("s3://KEY:a/b+c@bucket.example/p?region=a")
    assert of_results("s3://bucket.example/p?region=a") == "s3://bucket.example/p?region=a"
    assert (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]) == ("KEY", "a/b+c")
    assert "AWS_SESSION_TOKEN" not in os.environ


def test_a_study_is_recorded_and_pickled_without_logins(searched):
    study = replace(open_study("one", searched), tracking_uri="http://me:S3cret@h:1", storage="s3://k:S3cret@b/p")
    study = replace(study, home=replace(study.home, study_storage="postgresql://me:S3cret@h/d"))
    assert "S3cret" not in str(study.to_record()) + repr(study)
    assert b"S3cret" not in pickle.dumps(replace(study, storage="s3://b/p"))
