"""Who is let in, and how far."""

import io
import logging
import re
from datetime import UTC, datetime, timedelta

import pytest

from ntk_dist.errors import AuthenticationError
from ntk_dist.service.auth import is_loopback
from ntk_dist.service.tokens import MaskingFormatter, masked, new_token, require_valid

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def test_every_route_asks_for_a_token_but_those_of_health(shared):
    paths = shared.app.openapi()["paths"]
    stranger, open_to_all = shared.anyone(), set()
    for path, item in paths.items():
        address = path.replace("{number}", "0").replace("{version}", "1")
        for method, operation in item.items():
            if "security" not in operation:
                open_to_all.add(path)
                continue
            answered = stranger.request(method.upper(), re.sub("[{}]", "", address))
            assert (path, answered.status_code) == (path, 401)
            assert answered.headers["WWW-Authenticate"] == "Bearer"
    health = {"/v2/health/live", "/v2/health/ready", "/v2/models/{name}/ready"}
    versioned = "/v2/models/{name}/versions/{version}/ready"
    assert open_to_all == {"/v1/version", "/v1/health", "/v2", versioned} | health


@pytest.mark.parametrize(
    ("scope", "method", "address"),
    [
        ("predict", "GET", "/v1/jobs"),
        ("submit", "GET", "/v1/jobs"),
        ("submit", "GET", "/metrics"),
        ("read", "POST", "/v1/jobs"),
        ("predict", "POST", "/v1/jobs"),
        ("read", "POST", "/v1/uploads"),
        ("read", "POST", "/v1/jobs/x:cancel"),
    ],
)
def test_a_token_goes_as_far_as_its_scope(shared, error_of, scope, method, address):
    found = error_of(shared.may(scope).request(method, address))
    assert found[:2] == (403, "forbidden")
    assert f"got one with '{scope}'" in found[2]


def test_expired_revoked_and_made_up_tokens(make_callers, error_of):
    callers = make_callers()
    good = callers.new_token(["read"])
    old = callers.new_token(["admin"], lifetime=timedelta(seconds=-1))
    assert callers.anyone(good).get("/v1/jobs").status_code == 200
    assert "expired on" in error_of(callers.anyone(old).get("/v1/jobs"))[2]
    revoked = callers.new_token(["admin"])
    callers.service.database.tokens.revoke(revoked.split("_")[1], datetime.now(UTC))
    assert "was revoked" in error_of(callers.anyone(revoked).get("/v1/jobs"))[2]
    for made_up in ("x", good[:-1], good[:-1] + "!", good.replace("ntkd_", "ntkd_0", 1), ""):
        refused = callers.anyone(made_up).get("/v1/jobs")
        assert error_of(refused)[:2] == (401, "unauthenticated")
        assert good not in refused.text
    other = callers.anyone()
    basic = other.get("/v1/jobs", headers={"Authorization": f"Basic {good}"})
    assert error_of(basic)[:2] == (401, "unauthenticated")


def test_a_revoked_token_is_forgotten_within_seconds(make_callers):
    callers = make_callers()
    token = callers.new_token(["read"])
    gate, moment = callers.service.gate, [0.0]
    gate._clock = lambda: moment[0]
    client = callers.anyone(token)
    assert client.get("/v1/jobs").status_code == 200
    callers.service.database.tokens.revoke(token.split("_")[1], datetime.now(UTC))
    moment[0] = 5.1
    assert client.get("/v1/jobs").status_code == 401


def test_without_tokens_only_this_machine_is_answered(make_callers, error_of):
    stranger = make_callers(is_open=True).anyone()
    assert stranger.get("/v1/jobs").status_code == 200
    assert stranger.get("http://localhost:80/v1/jobs").status_code == 200
    assert stranger.get("http://[::1]/v1/jobs").status_code == 200
    rebound = stranger.get("/v1/jobs", headers={"Host": "evil.example"})
    assert error_of(rebound)[:2] == (403, "forbidden")
    page = stranger.post("/v1/jobs/x:cancel", headers={"Sec-Fetch-Site": "cross-site"})
    assert error_of(page)[:2] == (403, "forbidden")


def test_loopback():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "10.0.0.1", "localhost.example")))


def test_only_the_whole_secret_is_a_token():
    text, record = new_token("anna", ["read"], NOW, timedelta(days=1))
    assert text.split("_", 2)[2] not in repr(record)
    assert require_valid(text, record, NOW) is record
    other, _ = new_token("anna", ["read"], NOW)
    for wrong in (other, f"ntkd_{record.id}_{other.split('_', 2)[2]}"):
        with pytest.raises(AuthenticationError, match="not known here"):
            require_valid(wrong, record, NOW)
    with pytest.raises(AuthenticationError, match="not known here"):
        require_valid(text, None, NOW)


def test_secrets_stay_out_of_logs():
    text, record = new_token("anna", ["read"], NOW)
    secret = text.split("_", 2)[2]
    assert masked(f"a {text} b") == f"a ntkd_{record.id}_*** b"
    written, logger = io.StringIO(), logging.getLogger("test-of-masking")
    handler = logging.StreamHandler(written)
    handler.setFormatter(MaskingFormatter("%(message)s"))
    logger.addHandler(handler)
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("with %s", text)
    logger.removeHandler(handler)
    assert secret not in written.getvalue()
    assert written.getvalue().count(f"ntkd_{record.id}_***") == 2
