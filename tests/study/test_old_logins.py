import logging

import pytest

from tune_sam.study.old_logins import remove_logins


@pytest.mark.parametrize(
    ("stored", "kept"),
    [
        ("http://me:S3cret@host:5000", "http://host:5000"),
        ("ProxyError: cannot reach http://***@proxy:3128", "ProxyError: cannot reach http://***@proxy:3128"),
        ("no answer from http://host/a?b&&c", "no answer from http://host/a?b&&c"),
    ],
)
def test_a_login_is_removed_and_what_is_masked_stays(tmp_path, caplog, stored, kept):
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/optuna.db")
    study = optuna.create_study(study_name="one/sam", storage=storage)
    study.set_user_attr("record", {"said": [stored]})
    with caplog.at_level(logging.WARNING):
        remove_logins(storage)
    again = optuna.load_study(study_name="one/sam", storage=f"sqlite:///{tmp_path}/optuna.db")
    assert again.user_attrs == {"record": {"said": [kept]}}
    assert ("is removed" in caplog.text) == (stored != kept)
    assert ("S3cret" in (tmp_path / "optuna.db").read_bytes().decode("latin-1")) is False
