"""RunPod through its published Python SDK, which speaks GraphQL until RunPod retires that early in 2027.

The SDK is imported only where this provider is opened: that takes about two seconds. It pastes values between quotes and puts
whole requests into its errors; so values are encoded first, and its errors never leave this module.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Mapping, MutableSequence
from typing import Any, TypeVar

from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.errors import (
    ConfigurationError,
    FundsError,
    GlasshouseError,
    IntegrityError,
    NoCapacityError,
    ProviderError,
    RateLimitedError,
    TerminateError,
)
from pytest_glasshouse.providers.base import Account, Instance, Launch, Offer, checked_id
from pytest_glasshouse.providers.credentials import RUNPOD_URL, api_url
from pytest_glasshouse.providers.http_api import ApiClient, NotSentError, UnusableError, ambiguous_create, same_instance
from pytest_glasshouse.providers.launch_encoding import encode_launch
from pytest_glasshouse.providers.listing import Listing, own_listing
from pytest_glasshouse.providers.offers import affordable, models_for, number, price_from
from pytest_glasshouse.providers.requirements import ANY_MACHINE, CudaVersion, RequirementFilter, Requirements
from pytest_glasshouse.providers.runpod_graphql import CreatedDespiteError, GraphQLError, through
from pytest_glasshouse.providers.runpod_models import (
    POLL_S,
    SSH_PORT,
    URL_VARIABLE,
    Cloud,
    graphql_id,
    graphql_instance_from,
    meaning,
)
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.secret import Secret

_ACCOUNT = "query { myself { clientBalance currentSpendPerHr } }"
_MALFORMED = ("syntax error", "is not defined by type", "got invalid value", "cannot query field", "must be a valid")

#: The newest major version of CUDA that is asked for where a list of versions has to end.
_NEWEST_MAJOR = 14

AnswerT = TypeVar("AnswerT")


class RunPodSdkProvider:
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
        max_price_usd_per_hour: float | None = None,
        requirements: Requirements = ANY_MACHINE,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        try:
            import runpod
        except ImportError:
            raise ConfigurationError(
                "GLASSHOUSE_RUNPOD_API=sdk needs the runpod package: pip install 'pytest-glasshouse[runpod]', or unset the "
                "variable to use API v2, which needs none"
            ) from None
        self.base_url = base_url
        self.simulated = base_url != RUNPOD_URL
        self.archive_sha256 = sha256_hex(guest_archive())
        self._sdk: Any = runpod
        self._key = key
        self._api = ApiClient(provider=self.name, base_url=base_url, key=key, environ=environ)
        self._cloud: Cloud = cloud
        self._max_price = max_price_usd_per_hour
        self._requirements = requirements
        # GraphQL shows a pod's GPU by its display name; the catalog has the model of each.
        self._models: dict[str, str] = {}

    def offers(self, row: RowSpec) -> tuple[Offer, ...]:
        """GPU types with stock and enough GPU memory, at the list price of the chosen cloud.

        GraphQL's types show no other figure that is required: the create request asks for those.
        """
        required = RequirementFilter(self._requirements.demands)
        found = [offer for model in models_for(row) if (offer := self._offer(model, required, row.gpus)) is not None]
        return affordable(found, row=row, provider=self.name, max_price_usd_per_hour=self._max_price, required=required)

    def create(self, offer: Offer, *, launch: Launch) -> Instance:
        """One mutation. `AmbiguousCreateError` unless the answer says that nothing was made."""
        encoded_launch = encode_launch(launch)
        lost, made = "", None
        try:
            pod = self._ask(
                lambda: self._sdk.create_pod(
                    encoded_launch.name,
                    image_name=encoded_launch.image,
                    gpu_type_id=offer.gpu_model,
                    gpu_count=offer.gpus,
                    cloud_type=self._cloud,
                    # Keys are this run's own, in the environment; the account's are not asked for.
                    start_ssh=False,
                    container_disk_in_gb=launch.disk_gb,
                    allowed_cuda_versions=_from(self._requirements.cuda),
                    min_memory_in_gb=math.ceil(self._requirements.memory_gb or 1),
                    docker_args=shlex.join(encoded_launch.start),
                    ports=f"{SSH_PORT}/tcp",
                    env=dict(encoded_launch.env),
                )
            )
            return self._created(pod, launch.name, offer)
        except GraphQLError as error:
            # The SDK queries the GPU first; where that query was refused, nothing was made.
            if error.changed_nothing:
                raise
            lost = self._if_maybe_made(str(error), launch.name)
        except (NotSentError, RateLimitedError, NoCapacityError):
            raise
        except (ProviderError, IntegrityError) as error:
            lost, made = str(error), error.instance_id if isinstance(error, CreatedDespiteError) else None
        raise ambiguous_create(self.name, launch.name, lost, instance_id=made)

    def get(self, instance_id: str) -> Instance | None:
        """One pod; None where RunPod says that there is none."""
        pod_id = str(checked_id("runpod", instance_id))
        try:
            pod = self._ask(lambda: self._sdk.get_pod(pod_id))
        except GraphQLError as error:
            if meaning(str(error)) == "gone":
                return None
            raise
        return None if pod is None else same_instance(instance_id, self._instance(pod))

    def list(self) -> Listing:
        """Every pod of this project: GraphQL's listing has no pages. An error beside the pods is a doubt."""
        doubts: list[str] = []
        pods = self._ask(self._sdk.get_pods, missing=doubts)
        if not isinstance(pods, list):
            raise ProviderError("runpod: the listing is not a list of pods")
        found: dict[str, Instance] = {}
        for pod in pods:
            try:
                one = self._instance(pod)
            except (UnusableError, IntegrityError):
                doubts.append("an entry that cannot be read")
                continue
            if not isinstance(pod.get("name", 0), str | None):
                doubts.append("an entry whose name cannot be read")
            if found.setdefault(one.instance_id, one) is not one:
                doubts.append("an entry that is shown twice")
        return own_listing(self.name, found, doubts)

    def terminate(self, instance_id: str) -> None:
        """Delete the pod; one that is gone already is no error."""
        problem: str
        try:
            pod_id = str(checked_id("runpod", instance_id))
            self._ask(lambda: self._sdk.terminate_pod(pod_id))
        except GraphQLError as error:
            if meaning(str(error)) == "gone":
                return
            problem = str(error)
        except GlasshouseError as error:
            problem = str(error)
        else:
            return
        raise TerminateError(f"{problem}. Pod {instance_id} may still be billing", allocation_id=instance_id)

    def logs(self, instance_id: str) -> str:
        """GraphQL has no logs."""
        return f"(pod {instance_id}: RunPod's SDK shows no logs; GLASSHOUSE_RUNPOD_API=rest does)"

    def account(self) -> Account:
        """The account's balance. The SDK shows no clock."""
        from runpod.api.graphql import run_graphql_query

        answer = self._ask(lambda: run_graphql_query(_ACCOUNT)["data"]["myself"])
        balance = answer.get("clientBalance") if isinstance(answer, dict) else None
        return Account(balance_usd=number(balance))

    def may_create(self) -> bool:
        """Not known: any mutation that would show it might create a pod."""
        return False

    def secrets(self) -> tuple[str, ...]:
        """See `Provider.secrets`."""
        return self._api.secrets()

    def inject_fault(self, instance_id: str, action: str) -> None:
        """Raises `ConfigurationError`: only the mock provider plays faults."""
        raise ConfigurationError(f"provider runpod plays no faults; {action} on {instance_id} was asked for")

    def _ask(self, question: Callable[[], AnswerT], *, missing: MutableSequence[str] | None = None) -> AnswerT:
        """Call the SDK. With `missing`, an answer with errors beside it is accepted, and their text is appended there.

        The SDK's errors hold whole requests, so none leaves this method, not even as a context.
        """
        if api_url(os.environ, URL_VARIABLE, RUNPOD_URL) != self.base_url:
            raise ConfigurationError(f"{URL_VARIABLE} changed while the provider was in use; nothing was asked")
        self._sdk.api_key = self._key.reveal().decode()
        problem: GlasshouseError
        with through(self._api, in_part=missing is not None) as call:
            try:
                answer = question()
            except GlasshouseError as error:
                problem = error
            except (LookupError, TypeError, ValueError, AttributeError, self._sdk.error.RunPodError) as error:
                if str(error).startswith("No GPU found"):
                    problem = NoCapacityError("runpod: its catalog does not have this GPU any more. Nothing was created")
                else:
                    problem = UnusableError(f"runpod: its SDK cannot read the answer ({type(error).__name__})")
            else:
                if missing is not None and call.missing:
                    missing.append(call.missing)
                return answer
        # Without the frames below, which hold the key.
        raise problem.with_traceback(None)

    def _if_maybe_made(self, sentence: str, name: str) -> str:
        """`sentence`, or an error where it says that nothing was made."""
        match meaning(sentence):
            case "capacity":
                asked = f" It was asked for with {self._requirements}." if str(self._requirements) else ""
                raise NoCapacityError(f"{sentence}{asked} Nothing was created for {name}; try again later")
            case "funds":
                raise FundsError(f"{sentence} Nothing was created for {name}; add credit to the account")
        if any(sign in sentence.lower() for sign in _MALFORMED):
            from pytest_glasshouse.errors import LaunchRefusedError

            raise LaunchRefusedError(f"{sentence} The request for {name} is refused as malformed; nothing was created")
        return sentence

    def _offer(self, model: str, required: RequirementFilter, count: int) -> Offer | None:
        try:
            gpu = self._ask(lambda: self._sdk.get_gpu(model))
        except NoCapacityError:
            return None
        if not isinstance(gpu, dict):
            raise ProviderError("runpod: the price of a GPU is not in the form of its published API")
        self._models[str(gpu.get("displayName"))] = model
        secure = self._cloud == "SECURE"
        price, offered = (
            price_from(gpu.get("securePrice" if secure else "communityPrice")),
            gpu.get("secureCloud" if secure else "communityCloud"),
        )
        lowest = gpu.get("lowestPrice")
        in_stock = not isinstance(lowest, dict) or lowest.get("uninterruptablePrice") is not None
        if offered is False or not in_stock or price is None:
            return None
        if not required.passes({"gpu_memory_gb": number(gpu.get("memoryInGb"))}):
            return None
        # The list price is of one GPU.
        return Offer(provider=self.name, gpu_model=model, price_usd_per_hour=price * count, offer_id=model, gpus=count)

    def _created(self, pod: Any, name: str, offer: Offer) -> Instance:
        return Instance(instance_id=graphql_id(pod), name=name, state="pending", price_usd_per_hour=offer.price_usd_per_hour)

    def _instance(self, pod: Any) -> Instance:
        return graphql_instance_from(pod, redacted=self._api.redacted, models=self._models)


def _from(least: CudaVersion | None) -> list[str] | None:
    """Every version from `least` on, for an API that compares versions exactly; None where none is required.

    Versions that do not exist yet are among them, so that a newer driver is not excluded.
    """
    if least is None:
        return None
    majors = range(least.major, max(least.major, _NEWEST_MAJOR) + 1)
    versions = (CudaVersion(major, minor) for major in majors for minor in range(10))
    return [str(version) for version in versions if version >= least]
