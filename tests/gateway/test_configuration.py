"""The configuration: read from YAML, and every mistake told by name."""

from __future__ import annotations

from typing import Any

import pytest

from contract.settings_base import SettingsError, load, parse
from gateway.__main__ import main
from gateway.configuration import Configuration, ProviderSettings

MINIMAL: dict[str, Any] = {
    "upstreams": [{"kind": "triton", "name": "a", "address": "host:8001"}],
    "models": {"demo": {"versions": [{"name": "v1", "upstreams": ["a"]}]}},
}


def test_a_file(tmp_path):
    path = tmp_path / "gateway.yaml"
    path.write_text(
        """
        listen: {port: 9000}
        upstreams:
          - {kind: triton, name: a, address: "10.0.0.1:8001"}
          - {kind: openai, name: cloud, url: "https://example.com/v1", region: eu}
        models:
          demo:
            aliases: [gpt-4o-mini]
            versions: [{name: demo-1, upstreams: [a]}]
            fallback: {upstream: cloud, model: other}
        """
    )
    configuration = load(Configuration, path)
    assert configuration.listen.port == 9000
    assert isinstance(configuration.upstreams[1], ProviderSettings)
    assert configuration.models["demo"].aliases == {"gpt-4o-mini"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lissten": {}}, "lissten is not a setting; the nearest is listen"),
        ({"listen": {"prt": 1}}, "listen.prt is not a setting; the nearest is port"),
        (
            {"listen": {"tls": {"certificate": "c", "kee": "k"}}},
            "listen.tls.kee is not a setting; the nearest is key",
        ),
        (
            {"upstreams": [{"kind": "triton", "name": "a", "adress": "h:1"}]},
            "upstreams.0.triton.adress is not a setting; the nearest is address",
        ),
        (
            {"models": {"m": {"versions": [{"name": "v", "upstreams": ["a"], "wait": 1}]}}},
            "models.m.versions.0.wait is not a setting; the nearest is weight",
        ),
        ({"upstreams": [{"kind": "vllm"}]}, "does not match any of the expected tags: 'triton'"),
        ({"listen": {"port": 70000}}, "listen.port is 70000: input should be less than or equal"),
        ({"upstreams": []}, "upstreams is []: tuple should have at least 1 item"),
        ({"upstreams": MINIMAL["upstreams"] * 2}, "upstreams: two have one name"),
        (
            {"models": {"m": {"versions": [{"name": "v", "upstreams": ["b"]}]}}},
            "models: upstream 'b' isn't among the upstreams",
        ),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(SettingsError) as caught:
        parse(Configuration, {**MINIMAL, **change}, "gateway.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_wrong_inside_a_list_is_told_once():
    wrong = {**MINIMAL, "upstreams": [{"kind": "triton", "name": "a"}]}
    with pytest.raises(SettingsError, match=r"^f: upstreams\.0\.triton\.address is missing$"):
        parse(Configuration, wrong, "f")


@pytest.mark.parametrize("text", ["[", "3", "\x00"])
def test_what_is_no_settings_file(tmp_path, text):
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match="gateway"):
        load(Configuration, path)
    with pytest.raises(SettingsError, match="missing"):
        load(Configuration, tmp_path / "missing.yaml")


def test_a_provider_s_key_comes_from_the_environment(monkeypatch):
    provider = ProviderSettings(kind="openai", name="c", url="http://h/v1", api_key_env="C_KEY")
    monkeypatch.delenv("C_KEY", raising=False)
    with pytest.raises(ValueError, match="C_KEY is not set"):
        provider.api_key()
    monkeypatch.setenv("C_KEY", "secret")
    key = provider.api_key()
    assert key is not None
    assert "secret" not in repr(key)
    assert key.get_secret_value() == "secret"


def test_one_local_triton():
    configuration = Configuration.for_triton("127.0.0.1:8001")
    assert list(configuration.models) == ["demo"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--triton", "foo"], "error: address is 'foo': string should match pattern"),
        (["--port", "99999"], "error: listen.port is 99999: input should be less than"),
        (["--metrics-port", "-1"], "error: listen.metrics_port is -1: input should be greater"),
        (["--context-length", "0"], "error: context_length is 0: input should be greater"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_told_in_a_line(arguments, said, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert error.count("\n") == 1
