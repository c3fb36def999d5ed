"""The explorer as a tab of Airflow: a plugin that only Airflow loads, by the entry point `airflow.plugins` of this package.

People log in to Airflow, and its permissions decide: who may see DAGs sees pages, who may edit them flags samples, who may start runs acts.
Every process of Airflow loads plugins, so the explorer itself is imported at the first request, in the server alone.
"""

import hmac
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/alchemist"


class LazyExplorer:
    """The explorer, made at the first request."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if self._app is None:
            from alchemist_core.explorer.app import make_app  # noqa: PLC0415  only in Airflow's server

            self._app = make_app(AirflowLogin(), dags=f"{_path()}/dags/")
        await self._app(scope, receive, send)


class AirflowLogin:
    """Admits whom Airflow knows, with the permissions that its auth manager gives them on all DAGs."""

    async def admit(self, request: Request) -> Any:
        """Return the person; or a redirect to Airflow's login, or a refusal."""
        from airflow.api_fastapi.app import get_auth_manager  # noqa: PLC0415  slow, and only in Airflow's server
        from airflow.api_fastapi.core_api.security import bearer_scheme, get_user  # noqa: PLC0415
        from fastapi import HTTPException  # noqa: PLC0415

        try:
            # Its second parameter is for the documentation of Airflow's API.
            user = await get_user(request, None, await bearer_scheme(request))
        except HTTPException as refused:
            if refused.status_code == 401 and request.method == "GET":
                return RedirectResponse(get_auth_manager().get_url_login(next_url=str(request.url)), 303)
            return PlainTextResponse("Log in to Airflow first.\n", refused.status_code)
        person = await anyio.to_thread.run_sync(_person_of, user)
        return person or PlainTextResponse("Your role in Airflow may not see its DAGs, and so not these pages.\n", 403)


def _person_of(user: Any) -> Any:
    """Return the person, or None if they may see nothing."""
    from airflow.api_fastapi.app import get_auth_manager  # noqa: PLC0415
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity  # noqa: PLC0415

    from alchemist_core.explorer.people import Person  # noqa: PLC0415

    manager = get_auth_manager()
    if not manager.is_authorized_dag(method="GET", user=user):
        return None
    may_act = manager.is_authorized_dag(method="POST", access_entity=DagAccessEntity.RUN, user=user)
    may_flag = may_act or manager.is_authorized_dag(method="PUT", user=user)
    key = conf.get_mandatory_value("api", "secret_key").encode()
    secret = hmac.digest(key, f"alchemist explorer {user.get_id()}".encode(), "sha256")
    return Person(user.get_name(), secret, may_flag=may_flag, may_act=may_act)


def _address() -> str:
    """Return the path of the explorer, below that of Airflow."""
    return f"{_path()}{PREFIX}/"


def _path() -> str:
    """Return the path of Airflow itself, without a slash at its end."""
    return urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")


class AlchemistPlugin(AirflowPlugin):  # type: ignore[misc]  # Airflow is not analysed
    """A tab named Alchemist."""

    name = "alchemist"
    fastapi_apps = [{"app": LazyExplorer(), "url_prefix": PREFIX, "name": "Alchemist explorer"}]  # noqa: RUF012  as Airflow declares it
    external_views = [{"name": "Alchemist", "href": _address(), "destination": "nav", "url_route": "alchemist"}]  # noqa: RUF012
