"""Addresses of services, and the logins in them: used while this process lives, never shown, never stored.

A login is the part `USER:PASSWORD@` of an address, or an option such as `?password=`. A record has the address alone. A
later process finds the login in the address that it is given now, or in the variables and files where the service's own
client looks: PGPASSWORD and ~/.pgpass, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or ~/.netrc, and
AWS_ACCESS_KEY_ID.
"""

import os
import re
from urllib.parse import quote, unquote_to_bytes

VARIABLES = ("TUNE_SAM_TRACKING_URI", "TUNE_SAM_STORAGE")
"""The variables whose address may have the login that a record has not."""

_CREDENTIAL = (
    r"(?!sslkey=|passfile=|require_auth=)"  # of Postgres: names of files, and of a way to log in
    r"(?:pw|[\w.-]*(?:pass|pwd|secret|token|key|sig|auth|cred|user|login|jwt)[\w.-]*)"
)
_OPTION = re.compile(rf"([?&;#]{_CREDENTIAL}=)[^&\s]*", re.IGNORECASE)
_SETTING = re.compile(
    r"(\b\w*(?:password|passwd|pwd|secret|token)\w*\s*=\s*)('[^']*'|\"[^\"]*\"|[^\s&]+)", re.IGNORECASE
)
# What has a user, a colon and no port may hold spaces up to its @; anything else ends at a space.
_IN_A_TEXT = re.compile(r"://(?:[^\s/:@\[\]]+:(?!\d{1,5}[/?#])(?:(?![\s'\"(,=][a-z][\w+.-]*://)[^\n])*@|\S*@)")
_WITHOUT_SCHEME = re.compile(r"(?<![\w/:@*])[^\s:@/'\"(<=,*]+:(?!//)[^\s@]\S*@(?=[\w\[])")
_HOST = r"(?:\[[^\]]*\]|[^:,\[\]@]*)(?::\d*)?"
_HOSTS = re.compile(f"{_HOST}(?:,{_HOST})*")
_NAMED = ("abfs", "abfss", "gs", "hdfs")
"""File systems in whose addresses the name before the @ belongs to the place."""

_PORTLESS = ("s3", "postgresql", "mysql")
"""Schemes in whose addresses something with a colon before an @ is a login, whatever stands between."""

_given: dict[str, str] = {}
"""The addresses with a login that this process was given, by the same without."""


def masked(text: str) -> str:
    """Hide every login in a text: of addresses, with a scheme or without, of their options, and of settings."""
    text = _WITHOUT_SCHEME.sub("***@", _IN_A_TEXT.sub("://***@", text))
    return _SETTING.sub(r"\1***", _OPTION.sub(r"\1***", text))


def plain(address: str) -> str:
    """Write the login of an address so that every library reads the same in it, whatever its characters are.

    Args:
        address: whose login may hold `@`, `/`, `#`, spaces and the like as they are, or percent-encoded.
    """
    scheme, login, place = _parts(address)
    place, mark, query = place.partition("?")
    if not login and not mark:
        return address
    user, colon, password = login.partition(":")
    coded = f"{_coded(user)}{colon}{_coded(password)}@" if login else ""
    return scheme + coded + place + mark + quote(query, safe="%/:?@!$&'()*+,;=[]~-._")


def without_login(address: str) -> str:
    """Remove user, password and every credential among its options from an address; a folder stays as it is."""
    scheme, login, place = _parts(address)
    if not scheme:
        return address
    place, _, query = place.partition("?")
    kept = [one for one in query.split("&") if one and not re.match(f"{_CREDENTIAL}=", one, re.IGNORECASE)]
    name = login.partition(":")[0] if scheme.partition(":")[0] in _NAMED else ""
    return scheme + (f"{name}@" if name else "") + place + ("?" if kept else "") + "&".join(kept)


def same_place(one: str, other: str) -> bool:
    """Whether two addresses differ in nothing but their logins."""
    return _bare(one) == _bare(other)


def _bare(address: str) -> str:
    place, mark, query = without_login(address).partition("?")
    return place.rstrip("/") + mark + query


def with_driver(address: str) -> str:
    """Name the driver that [cluster] brings in an address that names none: SQLAlchemy below 2.1 takes another."""
    return re.sub("^postgresql:", "postgresql+psycopg:", address)


def lacking(error: ImportError) -> str:
    """Name the package without which a driver cannot be loaded, as an error of importing it says."""
    return error.name or "psycopg[binary]"  # which without its own library raises one that names nothing


def remember(address: str) -> None:
    """Keep the login of an address for as long as this process lives."""
    if without_login(address) != address:
        _given[_bare(address)] = plain(address)


def with_login(address: str) -> str:
    """Give the address of a record with the login that this process was given for it, if there is one.

    What an earlier release left in the record is not used: records come from other people, too.
    """
    for variable in VARIABLES:
        remember(os.environ.get(variable, ""))
    return _given.get(_bare(address), without_login(address))


def of_results(address: str) -> str:
    """Give the address of results without its login, which moves to where pyarrow looks for it, here and in workers.

    Ray writes whatever it is told of its results into files that lie among them.

    Args:
        address: of a record, or one that :func:`remember` was given.
    """
    scheme, login, _ = _parts(with_login(address))
    key, colon, secret = login.partition(":")
    if scheme == "s3://" and colon:
        os.environ.pop("AWS_SESSION_TOKEN", None)  # of another login
        os.environ["AWS_ACCESS_KEY_ID"] = unquote_to_bytes(key).decode()
        os.environ["AWS_SECRET_ACCESS_KEY"] = unquote_to_bytes(secret).decode()
    return without_login(address)


def _parts(address: str) -> tuple[str, str, str]:
    """Split an address into its scheme with `://`, its login and the rest; a folder is all rest."""
    scheme, mark, rest = address.partition("://")
    if not mark:
        return "", "", address
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    # A path may have an @, too; but where something is no host and no port, it is a login with a slash in it. A bucket
    # has no port, and of a database's address SQLAlchemy takes all before its last @ for the login.
    odd = scheme.startswith(_PORTLESS) and ":" in authority and "@" in rest
    if "@" in authority or odd or not _HOSTS.fullmatch(authority):
        login, _, place = rest.rpartition("@")
        return scheme + mark, login, place
    return scheme + mark, "", rest


def _coded(text: str) -> str:
    return quote(unquote_to_bytes(text), safe="")
