"""Where a run's work is done: threads of its own process, or the workers of a Dask cluster. No key depends on it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from lib.core.errors import nearest
from lib.records.settings import Settings

ENGINES = ("threads", "dask")
_OF_A_NEW_CLUSTER = ("workers", "threads", "cluster", "arguments", "adapt")


class AdaptSettings(Settings):
    """Workers of a cluster that grows and shrinks with the work that is left."""

    minimum: int = Field(0, ge=0, le=10_000, description="workers that stay")
    maximum: int = Field(ge=1, le=10_000, description="workers at most")

    @model_validator(mode="after")
    def _ordered(self) -> AdaptSettings:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self


class EngineSettings(Settings):
    """`engine: dask` is short for {name: dask}: processes of this machine, one a visible GPU. The pictures are the same
    bytes on every engine and with any number of workers."""

    name: str = Field(
        "threads", description="threads: of the run's own process; dask: processes of this machine, or of a cluster"
    )
    address: str | None = Field(
        None, description="a running cluster's scheduler (tcp://host:8786); none: one is started for the run"
    )
    workers: int | None = Field(
        None, ge=1, le=10_000, description="processes of this machine; none: one a visible GPU, or two on a CPU"
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="of each of them; none: this machine's cores, shared out among the processes"
    )
    cluster: str | None = Field(
        None, description="class that starts the cluster, `dask_jobqueue.SLURMCluster` say; none: this machine"
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="of that class, by name")
    adapt: AdaptSettings | None = Field(
        None, description="{minimum: 0, maximum: 8}: workers come and go with the work; for a `cluster`"
    )

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in ENGINES:
            raise ValueError(f"no engine of this name{nearest(name, ENGINES)}: known are {', '.join(ENGINES)}")
        return name

    @field_validator("address")
    @classmethod
    def _complete(cls, address: str | None) -> str | None:
        if address is not None:
            try:
                place = urlsplit(address)
                whole = place.scheme in ("tcp", "tls", "ws", "wss") and place.hostname and place.port
            except ValueError:
                whole = False
            if not whole:
                raise ValueError("expected the address of a Dask scheduler with its port, as tcp://host:8786")
        return address

    @model_validator(mode="after")
    def _together(self) -> EngineSettings:
        given = [name for name in ("address", *_OF_A_NEW_CLUSTER) if getattr(self, name)]
        if self.name == "threads" and given:
            raise ValueError(f"{', '.join(given)}: for a cluster; set name to dask, or leave it out")
        if self.address is not None and len(given) > 1:
            raise ValueError(f"{', '.join(given[1:])}: of a cluster that is started; the one at `address` has its own")
        if self.cluster is None and (self.arguments or self.adapt):
            raise ValueError("arguments and adapt are for a `cluster`: name its class, dask_jobqueue.SLURMCluster say")
        if self.cluster is not None and (self.workers or self.threads):
            raise ValueError("workers and threads are of this machine; `cluster` takes its own in `arguments`")
        return self
