"""WHEN: the flows a person deploys and runs, the command line, and the journey from Python: augment_dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.python import augment_dataset as augment_dataset

# For every Prefect that this project starts: quiet, events recorded in batches (one at a time they cost 45 to 58 ms of
# CPU a task run, in batches 9 to 15), and patient with a database that another program writes to: the server waits up
# to 60 s for its turn, and a client waits longer than that before it asks again.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "augment.downloads",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_API_REQUEST_TIMEOUT": "90",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "50",
}


def __getattr__(name: str) -> Any:
    """`augment_dataset`, imported when it is wanted: the command line starts without torch and Prefect."""
    if name == "augment_dataset":
        from flows.python import augment_dataset

        return augment_dataset
    raise AttributeError(f"module 'flows' has no attribute {name!r}")
