"""Vast.ai, through the few endpoints that are needed, on urllib3. The `vastai` package is not used: it retries creates.

Any field of an answer may be null. One create request, sent once; an id in a refusal is an instance all the same.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.errors import (
    ConfigurationError,
    CredentialsError,
    FundsError,
    GlasshouseError,
    IntegrityError,
    LaunchRefusedError,
    NoCapacityError,
    ProviderError,
    TerminateError,
)
from pytest_glasshouse.http_client.exchange import AnswerLimits
from pytest_glasshouse.providers.base import Account, Instance, Launch, Offer, checked_id
from pytest_glasshouse.providers.credentials import VAST_URL, api_url, vast_key
from pytest_glasshouse.providers.http_api import (
    ApiClient,
    ApiReply,
    NotSentError,
    Throttle,
    UnusableError,
    ambiguous_create,
    redact_log,
    same_instance,
)
from pytest_glasshouse.providers.launch_encoding import VariableLimits, encode_launch
from pytest_glasshouse.providers.listing import Listing, read_pages
from pytest_glasshouse.providers.offers import affordable, models_for, number
from pytest_glasshouse.providers.requirements import ANY_MACHINE, RequirementFilter, Requirements
from pytest_glasshouse.providers.vastai_models import figures_of, id_text, instance_from, offer_from, search_for
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.secret import Secret

if TYPE_CHECKING:
    from pytest_glasshouse.providers.place_settings import PlaceSettings
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.wire.canonical import Json

URL_VARIABLE = "VAST_URL"
#: Vast.ai refuses more than one request of a key to an endpoint every few seconds.
POLL_S = 10.0
#: A simulated provider's own limit.
SIMULATED_POLL_S = 0.1
_PAGE = 25
#: Where Vast.ai stores logs outside its API: https, this host, below this path.
_LOGS_HOST, _LOGS_PATH = "s3.amazonaws.com", "/vast.ai/instance_logs/"
_LOG = AnswerLimits(quiet_s=5.0, whole_s=10.0, most_bytes=1024 * 1024)
_LONGEST_URL = 2048
_CAPACITY = {"no_such_ask"}
_MALFORMED = {"invalid_args", "invalid_price", "no_ssh_key_for_vm"}
_FUNDS = {"insufficient_credit", "insufficient_balance"}
_REFUSALS = _CAPACITY | _MALFORMED | _FUNDS
_OK = 200
#: The limits of `env` in Vast.ai's API documentation, which leaves open whether names count; here they do.
_ENV = VariableLimits(one=256, all=32_768)


def open_vastai(
    environ: Mapping[str, str],
    *,
    max_price_usd_per_hour: float | None = None,
    requirements: Requirements = ANY_MACHINE,
) -> VastProvider:
    """Vast.ai, with key and base URL from the environment. Raises `ConfigurationError`; rents nothing."""
    url = api_url(environ, URL_VARIABLE, VAST_URL)
    return VastProvider(
        key=vast_key(environ),
        base_url=url,
        max_price_usd_per_hour=max_price_usd_per_hour,
        requirements=requirements,
        environ=environ,
    )


def open_vastai_place(settings: PlaceSettings) -> VastProvider:
    """See `places.Place`."""
    return open_vastai(
        settings.environ, max_price_usd_per_hour=settings.max_price_usd_per_hour, requirements=settings.requirements
    )


class VastProvider:
    """Instances on Vast.ai. Reads of the same kind are at least ten seconds apart."""

    name = "vastai"
    rents = True
    dry_run = False
    this_machine = False

    def __init__(
        self,
        *,
        key: Secret,
        base_url: str,
        max_price_usd_per_hour: float | None = None,
        requirements: Requirements = ANY_MACHINE,
        environ: Mapping[str, str] | None = None,
        poll_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base_url = base_url
        self.simulated = base_url != VAST_URL
        self.poll_s = (SIMULATED_POLL_S if self.simulated else POLL_S) if poll_s is None else poll_s
        self.archive_sha256 = sha256_hex(guest_archive())
        self._api = ApiClient(provider=self.name, base_url=base_url, key=key, environ=environ)
        self._max_price = max_price_usd_per_hour
        self._requirements = requirements
        reads = ("offers", "get", "list", "logs")
        self._throttles = {read: Throttle(self.poll_s, monotonic=monotonic, sleep=sleep) for read in reads}

    def offers(self, row: RowSpec) -> tuple[Offer, ...]:
        """Verified single-GPU machines with open ports that meet the requirements, on demand.

        Where there is none, a second search without the requirements shows which of them excluded what.
        """
        models = models_for(row)
        required = RequirementFilter(self._requirements.demands)
        found = self._search(models, self._requirements, required, row.gpus)
        if not found and self._requirements.demands:
            required = RequirementFilter(self._requirements.demands)
            found = self._search(models, ANY_MACHINE, required, row.gpus)
        return affordable(found, row=row, provider=self.name, max_price_usd_per_hour=self._max_price, required=required)

    def create(self, offer: Offer, *, launch: Launch) -> Instance:
        """One PUT. `AmbiguousCreateError` unless the answer says that nothing was made."""
        lost, made = "", None
        try:
            reply = self._api.request("PUT", f"/api/v0/asks/{quote(offer.offer_id, safe='')}/", body=_order(launch))
            answer = _answer(reply)
            made = _contract(answer)
            if reply.succeeded and made is not None and answer.get("success") is not False:
                return Instance(instance_id=made, name=launch.name, state="pending", price_usd_per_hour=offer.price_usd_per_hour)
            hidden = made is None and _hides_contract(reply, answer)
            if made is None and not hidden and (not reply.succeeded or str(answer.get("error")) in _REFUSALS):
                raise self._not_created(reply, answer, launch.name)
            lost = f"status {reply.status}: {self._detail(answer)}"
        except NotSentError:
            raise
        except (UnusableError, IntegrityError) as error:
            lost = str(error)
        raise ambiguous_create(self.name, launch.name, lost, instance_id=made)

    def get(self, instance_id: str) -> Instance | None:
        """One instance; None for 404 and for `instances: null`."""
        path = _path(instance_id)
        self._throttles["get"].wait()
        reply = self._api.request("GET", path, query={"owner": "me"})
        if reply.not_found:
            return None
        fields = self._fields(reply, "an instance")
        if "instances" not in fields:
            raise UnusableError("vastai: expected an instance or null, saw an answer without either")
        found = fields["instances"]
        return None if found is None else same_instance(instance_id, instance_from(found, redacted=self._api.redacted))

    def list(self) -> Listing:
        """The instances of this project, all pages. A listing without a total, or with fewer than that, is not the whole."""

        def ask(query: Mapping[str, str]) -> ApiReply:
            self._throttles["list"].wait()
            return self._succeeded(self._api.request("GET", "/api/v1/instances/", query=query), "the listing")

        return read_pages(
            ask,
            lambda row: instance_from(row, redacted=self._api.redacted),
            entries="instances",
            url=f"{self.base_url}/api/v1/instances/",
            query={"select_filters": "{}", "order_by": '[{"col":"id","dir":"asc"}]', "limit": str(_PAGE)},
            parameters={"next_token": "after_token"},
            has_total=True,
        )

    def terminate(self, instance_id: str) -> None:
        """Destroy the instance; one that is gone already is no error."""
        problem: str
        try:
            reply = self._api.request("DELETE", _path(instance_id), body=_json({}))
            if reply.not_found or (reply.status == _OK and _answer(reply).get("success") is True):
                return
            detail = self._detail(_answer(reply) if reply.status == _OK else _problem(reply))
            problem = str(self._api.refusal(reply, "the end of an instance", detail))
        except GlasshouseError as error:
            problem = str(error)
        raise TerminateError(f"{problem}. Instance {instance_id} may still be billing", allocation_id=instance_id)

    def logs(self, instance_id: str) -> str:
        """What its container printed, if the log is ready at once; empty otherwise."""
        self._throttles["logs"].wait()
        try:
            path = _path(instance_id, "request_logs/")
            url = _answer(self._api.request("PUT", path, body=_json({"tail": "200"}))).get("result_url")
            text = self._log(url) if isinstance(url, str) and len(url) <= _LONGEST_URL else ""
        except GlasshouseError:
            return ""
        return redact_log(text, secrets=self._api.secrets())

    def account(self) -> Account:
        """The account's balance and clock."""
        reply = self._api.request("GET", "/api/v0/users/current/")
        credit = self._fields(reply, "the account").get("credit")
        return Account(balance_usd=number(credit), server_time_s=reply.server_time_s)

    def may_create(self) -> bool:
        """Send a create for an offer that does not exist, which is refused: for the key first, else for the offer."""
        reply = self._api.request("PUT", "/api/v0/asks/0/", body=_json({}))
        if reply.status in {401, 403}:
            raise self._not_created(reply, _problem(reply), "an instance")
        if (made := _contract(_answer(reply))) is not None:
            # Against its documentation an instance was made: end it, or raise that its end failed.
            self.terminate(made)
        return reply.status in {400, 404, 410, 422}

    def secrets(self) -> tuple[str, ...]:
        """See `Provider.secrets`."""
        return self._api.secrets()

    def inject_fault(self, instance_id: str, action: str) -> None:
        """Raises `ConfigurationError`: only the mock provider plays faults."""
        raise ConfigurationError(f"provider vastai plays no faults; {action} on {instance_id} was asked for")

    def _search(self, models: Sequence[str], asked: Requirements, required: RequirementFilter, gpus: int) -> tuple[Offer, ...]:
        """The offers of one search that meet what is required, whatever the search was for."""
        self._throttles["offers"].wait()
        disk_gb = self._requirements.disk_gb
        reply = self._api.request("POST", "/api/v0/bundles/", body=_json(search_for(models, asked, disk_gb=disk_gb, gpus=gpus)))
        found = self._fields(reply, "the search for offers").get("offers")
        if not isinstance(found, list):
            raise ProviderError("vastai: the search has no list of offers")
        offers = [
            (one, offer) for one in found if (offer := offer_from(one, gpus=gpus)) is not None and offer.gpu_model in models
        ]
        return tuple(offer for one, offer in offers if required.passes(figures_of(one)))

    def _fields(self, reply: ApiReply, what: str) -> dict[str, Json]:
        return self._succeeded(reply, what).fields(tolerant=True)

    def _succeeded(self, reply: ApiReply, what: str) -> ApiReply:
        if reply.status != _OK:
            raise self._api.refusal(reply, what, self._detail(_problem(reply)))
        return reply

    def _log(self, url: str) -> str:
        """A log file, from the API itself or, without the key, from Vast.ai's one other place. No other URL is requested."""
        try:
            there, here = urlsplit(url), urlsplit(self.base_url)
        except ValueError:
            return ""
        if not there.scheme and not there.netloc and url.startswith("/"):
            reply = self._api.request("GET", url, limits=_LOG)
            return reply.body.decode(errors="replace") if reply.status == _OK else ""
        if (there.scheme, there.netloc) == (here.scheme, here.netloc):
            return self._log(there._replace(scheme="", netloc="").geturl())
        allowed = there.scheme == "https" and there.netloc == _LOGS_HOST and there.path.startswith(_LOGS_PATH) and ".." not in url
        answer = self._api.fetch_without_key(url, limits=_LOG) if allowed else None
        return answer.body.decode(errors="replace") if answer is not None and answer.status == _OK else ""

    def _detail(self, answer: Mapping[str, Json]) -> str:
        return self._api.redacted(" ".join(str(answer[name]) for name in ("error", "msg") if answer.get(name)))

    def _not_created(  # noqa: PLR0911  (one return a meaning)
        self, reply: ApiReply, answer: Mapping[str, Json], name: str
    ) -> GlasshouseError:
        error, detail = str(answer.get("error")), self._detail(answer)
        if reply.undecided:
            return UnusableError(f"status {reply.status}: {detail}")
        if error in _FUNDS or "credit" in error:
            return FundsError(f"vastai: {detail}. Nothing was created for {name}; add credit to the account")
        if error in _CAPACITY or reply.status in {404, 410}:
            return NoCapacityError(f"vastai: the offer for {name} is gone ({detail}). Nothing was created; try the next offer")
        if reply.status == 403:  # noqa: PLR2004
            return CredentialsError(
                f"vastai: this API key may not create instances (403: {detail}). Nothing was created; give the key the right "
                "instance_write, or use another"
            )
        if error in _MALFORMED or reply.status == 422:  # noqa: PLR2004
            return LaunchRefusedError(f"vastai: the request for {name} is refused as malformed: {detail}. Nothing was created")
        if reply.status == 400:  # noqa: PLR2004
            return NoCapacityError(f"vastai: the offer for {name} was refused: {detail}. Nothing was created; try the next offer")
        return self._api.refusal(reply, f"creating {name}", detail)


def _json(value: Json) -> Secret:
    return Secret(json.dumps(value).encode())


def _order(launch: Launch) -> Secret:
    """The body of the create request, a `Secret` because `env` may hold some. `args` keeps Vast.ai's own sshd from starting."""
    encoded_launch = encode_launch(launch, limits=_ENV)
    return _json(
        {
            "client_id": "me",
            "image": encoded_launch.image,
            "env": {**encoded_launch.env, "-p 22:22": "1"},
            "price": None,
            "disk": launch.disk_gb,
            "label": encoded_launch.name,
            "runtype": "args",
            "onstart": encoded_launch.start[0] if encoded_launch.start else None,
            "args": list(encoded_launch.start[1:]),
            "cancel_unavail": True,
            "force": False,
        }
    )


def _path(instance_id: str, what: str = "") -> str:
    """The API's path of an instance. Raises `ProviderError` for what is no id of one."""
    return f"/api/v0/instances/{what}{quote(checked_id('vastai', instance_id), safe='')}/"


def _answer(reply: ApiReply) -> dict[str, Json]:
    """The answer's fields. A success must be a JSON object, anything else may be plain text."""
    return reply.fields() if reply.succeeded else _problem(reply)


def _problem(reply: ApiReply) -> dict[str, Json]:
    try:
        return reply.fields(tolerant=True)
    except UnusableError:
        kind = reply.headers.get("content-type", "")
        return {"msg": reply.body[:200].decode(errors="replace") if kind.startswith("text/plain") else "no reason given"}


def _hides_contract(reply: ApiReply, answer: Mapping[str, Json]) -> bool:
    """Whether the answer may name an instance that was made, in a form that cannot be read."""
    return "new_contract" not in answer and b"new_contract" in reply.body


def _contract(answer: Mapping[str, Json]) -> str | None:
    """The id of the instance that was made, which a refusal can have too. Raises `UnusableError` for what is no id."""
    made = answer.get("new_contract")
    if not made:
        return None
    found = id_text(int(made) if isinstance(made, str) and re.fullmatch("[0-9]{1,19}", made) else made)
    if found is None:
        raise UnusableError("vastai: expected an instance's id in new_contract, saw something else")
    return found
