"""RunPod through its REST API v2. Request and answer fields as published in August 2026.

The create request is sent once. An answer in another form is an error; a state that is not known is `unknown`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from urllib.parse import quote

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
from pytest_glasshouse.providers.credentials import RUNPOD_URL
from pytest_glasshouse.providers.http_api import (
    ApiClient,
    ApiReply,
    NotSentError,
    UnusableError,
    ambiguous_create,
    redact_log,
    same_instance,
)
from pytest_glasshouse.providers.launch_encoding import check_launch, environment
from pytest_glasshouse.providers.listing import Listing, read_pages
from pytest_glasshouse.providers.offers import affordable, models_for, price_from
from pytest_glasshouse.providers.requirements import ANY_MACHINE, Demand, RequirementFilter, Requirements
from pytest_glasshouse.providers.runpod_models import (
    POLL_S,
    SSH_PORT,
    Cloud,
    NetworkVolume,
    meaning,
    only_this_pool,
    rest_figures,
    rest_instance_from,
)
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.canonical import Json, parse_tolerant, sha256_hex
from pytest_glasshouse.wire.secret import Secret

#: A log is a stream without an end: reading stops where no more comes.
_LOG = AnswerLimits(quiet_s=1.5, whole_s=10.0, most_bytes=256 * 1024, as_far_as_it_came=True)
_LONGEST_LINE = 16_384
_LOG_LINES = "200"
_DATA_CENTER = re.compile(r"[A-Z0-9][A-Za-z0-9-]{0,31}", re.ASCII)


class RunPodRestProvider:
    """Pods on RunPod."""

    name = "runpod"
    rents = True
    dry_run = False
    this_machine = False
    poll_s = POLL_S

    def __init__(
        self,
        *,
        key: Secret,
        base_url: str,
        cloud: Cloud = "SECURE",
        volume: NetworkVolume | None = None,
        max_price_usd_per_hour: float | None = None,
        requirements: Requirements = ANY_MACHINE,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        if requirements.memory_gb is not None:
            raise ConfigurationError(
                "--glasshouse-min-memory: RunPod's API v2 has no filter for a machine's memory; drop it, or set "
                "GLASSHOUSE_RUNPOD_API=sdk"
            )
        self.base_url = base_url
        self.simulated = base_url != RUNPOD_URL
        self.archive_sha256 = sha256_hex(guest_archive())
        self._api = ApiClient(provider=self.name, base_url=base_url, key=key, environ=environ)
        self._cloud: Cloud = cloud
        self._volume = volume
        #: Where the volume is; asked for once.
        self._volume_in: str | None = None
        self._max_price = max_price_usd_per_hour
        self._requirements = requirements

    def offers(self, row: RowSpec) -> tuple[Offer, ...]:
        """GPU types with stock that meet the requirements, at the list price of the chosen cloud.

        With a volume, those in its data center: pods can mount it nowhere else.
        """
        demands = self._requirements.demands
        if (place := self._data_center()) is not None:
            demands += (Demand(figure="data_centers", least=place, what=f"volume in {place}"),)
        required = RequirementFilter(demands)
        query = {"include": "AVAILABILITY", "product": "POD", "cloud": self._cloud}
        gpus = self._read("/v2/catalog/gpus", "the catalog", query=query).get("gpus")
        if not isinstance(gpus, list):
            raise ProviderError("runpod: the catalog has no list of gpus; expected the form of API v2")
        models = models_for(row)
        offered = [(gpu, self._offer(gpu, row.gpus)) for gpu in gpus if isinstance(gpu, dict) and gpu.get("id") in models]
        found = [offer for gpu, offer in offered if offer is not None and required.passes(rest_figures(gpu))]
        return affordable(found, row=row, provider=self.name, max_price_usd_per_hour=self._max_price, required=required)

    def create(self, offer: Offer, *, launch: Launch) -> Instance:
        """One POST. `AmbiguousCreateError` unless the answer says that nothing was made."""
        check_launch(launch)
        lost: str
        try:
            reply = self._api.request("POST", "/v2/pods", body=self._order(launch, offer))
            if not reply.succeeded:
                raise self._not_created(reply, launch.name)
            return self._instance(reply.fields())
        except NotSentError:
            raise
        except (UnusableError, IntegrityError) as error:
            lost = str(error)
        raise ambiguous_create(self.name, launch.name, lost)

    def get(self, instance_id: str) -> Instance | None:
        """One pod; None for 404."""
        reply = self._api.request("GET", _path(instance_id))
        if reply.not_found:
            return None
        return same_instance(instance_id, self._instance(self._fields(reply, "a pod")))

    def list(self) -> Listing:
        """The pods of this project, all pages. API v2 documents no paging, and `read_pages` follows it where it appears."""
        return read_pages(
            lambda query: self._succeeded(self._api.request("GET", "/v2/pods", query=query), "the listing"),
            self._instance,
            entries="pods",
            url=f"{self.base_url}/v2/pods",
        )

    def terminate(self, instance_id: str) -> None:
        """Delete the pod; one that is gone already is no error."""
        problem: str
        try:
            reply = self._api.request("DELETE", _path(instance_id))
            if reply.status in {200, 202, 204} or reply.not_found:
                return
            problem = str(self._api.refusal(reply, "the end of a pod", self._detail(reply)))
        except GlasshouseError as error:
            problem = str(error)
        raise TerminateError(f"{problem}. Pod {instance_id} may still be billing", allocation_id=instance_id)

    def logs(self, instance_id: str) -> str:
        """The last lines its container printed; empty where they cannot be read."""
        try:
            path = f"{_path(instance_id)}/logs"
            reply = self._api.request("GET", path, query={"source": "container", "tail": _LOG_LINES}, limits=_LOG)
        except GlasshouseError:
            return ""
        if reply.status != 200:  # noqa: PLR2004
            return ""
        return redact_log("\n".join(_lines(reply.body.decode(errors="replace"))), secrets=self._api.secrets())

    def account(self) -> Account:
        """Shows that the key may list; API v2 has no balance."""
        reply = self._succeeded(self._api.request("GET", "/v2/pods"), "the listing")
        reply.fields(tolerant=True)
        return Account(server_time_s=reply.server_time_s)

    def may_create(self) -> bool:
        """Send a create without name, image or GPU, which the API must refuse: for the key first, else for its form."""
        reply = self._api.request("POST", "/v2/pods", body=Secret(b"{}"))
        if reply.status in {401, 403}:
            raise self._not_created(reply, "a pod")
        if reply.succeeded:
            # Against its documentation a pod was made: end it, or raise that its end failed.
            self.terminate(self._instance(reply.fields()).instance_id)
        return reply.status == 422  # noqa: PLR2004

    def secrets(self) -> tuple[str, ...]:
        """See `Provider.secrets`."""
        return self._api.secrets()

    def inject_fault(self, instance_id: str, action: str) -> None:
        """Raises `ConfigurationError`: only the mock provider plays faults."""
        raise ConfigurationError(f"provider runpod plays no faults; {action} on {instance_id} was asked for")

    def _read(self, path: str, what: str, *, query: dict[str, str] | None = None) -> dict[str, Json]:
        return self._fields(self._api.request("GET", path, query=query), what)

    def _fields(self, reply: ApiReply, what: str) -> dict[str, Json]:
        return self._succeeded(reply, what).fields(tolerant=True)

    def _succeeded(self, reply: ApiReply, what: str) -> ApiReply:
        if reply.status != 200:  # noqa: PLR2004
            raise self._api.refusal(reply, what, self._detail(reply))
        return reply

    def _detail(self, reply: ApiReply) -> str:
        try:
            fields = reply.fields(tolerant=True)
        except UnusableError:
            return "no problem document"
        errors = fields.get("errors")
        more = f" ({'; '.join(str(one) for one in errors)})" if isinstance(errors, list) else ""
        return self._api.redacted(f"{fields.get('detail', '')}{more}")

    def _not_created(self, reply: ApiReply, name: str) -> GlasshouseError:  # noqa: PLR0911  (one return a meaning)
        detail = self._detail(reply)
        if reply.undecided:
            return UnusableError(f"status {reply.status}: {detail}")
        match reply.status:
            case 400 if meaning(detail) == "funds":
                return FundsError(f"runpod: {detail}. Nothing was created; add credit to the account")
            case 400:
                # No code tells missing capacity from a request that is wrong; in both cases nothing was made.
                asked = f" It was asked for with {self._requirements}." if str(self._requirements) else ""
                return NoCapacityError(
                    f"runpod: 400 for {name}: {detail}.{asked} Nothing was created; try again later. If every offer is answered "
                    "so, the request is wrong"
                )
            case 403 if only_this_pool(detail):
                return NoCapacityError(f"runpod: this account may not use that pool: {detail}. Nothing was created")
            case 403:
                return CredentialsError(
                    f"runpod: this API key may not create pods (403: {detail}). Nothing was created; give the key the right to "
                    "write, or use another"
                )
            case 422:
                return LaunchRefusedError(
                    f"runpod: the request for {name} is refused as malformed: {detail}. Nothing was created"
                )
        return self._api.refusal(reply, f"creating {name}", detail)

    def _offer(self, gpu: dict[str, Json], count: int) -> Offer | None:
        price = gpu.get("price")
        usd = price_from(price.get(self._cloud.lower()) if isinstance(price, dict) else None)
        offered = gpu.get(self._cloud.lower()) is not False and gpu.get("availability") != "NONE"
        if not offered or usd is None:
            return None
        model = str(gpu["id"])
        # The list price is of one GPU.
        return Offer(provider=self.name, gpu_model=model, price_usd_per_hour=usd * count, offer_id=model, gpus=count)

    def _order(self, launch: Launch, offer: Offer) -> Secret:
        """The body of the create request, a `Secret` because the environment may hold some."""
        gpu: dict[str, Json] = {"id": offer.gpu_model, "count": offer.gpus}
        if self._requirements.cuda is not None:
            gpu["minCudaVersion"] = str(self._requirements.cuda)
        body: dict[str, Json] = {
            "name": launch.name,
            "image": launch.image,
            "cloud": self._cloud,
            "gpu": gpu,
            "disk": launch.disk_gb,
            "ports": [f"{SSH_PORT}/tcp"],
            "env": {**environment(launch)},
        }
        if self._volume is not None:
            body["mounts"] = {"network": [{"volumeId": self._volume.volume_id, "path": self._volume.path}]}
        if self._volume_in is not None:
            body["dataCenterIds"] = [self._volume_in]
        if launch.start:
            body["args"] = shlex.join(launch.start)
        return Secret(json.dumps(body).encode())

    def _data_center(self) -> str | None:
        """Where the volume is; None without one. Raises `ConfigurationError` for a volume that the account does not have."""
        if self._volume is None or self._volume_in is not None:
            return self._volume_in
        reply = self._api.request("GET", f"/v2/network-volumes/{quote(self._volume.volume_id, safe='')}")
        if reply.not_found:
            raise ConfigurationError(
                f"GLASSHOUSE_RUNPOD_VOLUME: this account has no network volume {self._volume.volume_id}. Nothing was created"
            )
        place = self._fields(reply, "a network volume").get("dataCenter")
        if not isinstance(place, str) or not _DATA_CENTER.fullmatch(place):
            raise ProviderError("runpod: expected the data center of a network volume such as EU-RO-1, saw something else")
        self._volume_in = place
        return place

    def _instance(self, pod: Json) -> Instance:
        return rest_instance_from(pod, redacted=self._api.redacted)


def _path(instance_id: str) -> str:
    """The API's path of a pod. Raises `ProviderError` for what is no id of one."""
    return f"/v2/pods/{quote(checked_id('runpod', instance_id), safe='')}"


def _lines(stream: str) -> list[str]:
    found = []
    for sent in stream.splitlines():
        if sent.startswith("data:"):
            try:
                event = parse_tolerant(sent.removeprefix("data:").encode(errors="replace"), limit=_LONGEST_LINE)
            except IntegrityError:
                continue
            line = event.get("line") if isinstance(event, dict) else None
            if isinstance(line, str):
                found.append(line)
    return found
