"""Taking a replica out for maintenance, and back."""

from __future__ import annotations

from gateway.admin.operations import Administration
from gateway.services import Services
from tests.gateway.fakes import CHAT, FakeUpstream, configuration, serving


def test_a_replica_is_drained_and_taken_back(tmp_path):
    settings = configuration(("a", "b"), database=f"sqlite:///{tmp_path}/gateway.db")
    services = Services.open(settings)
    assert isinstance(services.administration, Administration)
    directory = services.administration.directory
    token = directory.create_admin("ada").text
    upstreams = {"a": FakeUpstream(), "b": FakeUpstream()}
    with serving(upstreams, settings, services=services) as gateway:
        with gateway.client() as nobody:
            assert nobody.put("/admin/v1/upstreams/a", json={"drained": True}).status_code == 401
        with gateway.client(headers={"authorization": f"Bearer {token}"}) as admin:
            drained = admin.put("/admin/v1/upstreams/a", json={"drained": True}).json()
            assert drained == {"name": "a", "available": False, "drained": True, "in_flight": 0}
            assert admin.put("/admin/v1/upstreams/c", json={"drained": True}).status_code == 404
            assert admin.put("/admin/v1/upstreams/a", json={"drain": True}).status_code == 400
            listed = admin.get("/admin/v1/upstreams").json()
            assert [each["available"] for each in listed] == [False, True]
            back = admin.put("/admin/v1/upstreams/a", json={"drained": False}).json()
            assert back["available"] is True
            # An admin's token is for this, and asks no model.
            assert admin.post("/v1/chat/completions", json=CHAT).status_code == 401
