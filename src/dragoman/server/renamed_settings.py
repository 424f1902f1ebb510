"""Old spellings of settings. They are still accepted, in the file, the environment and the command line."""

from collections.abc import Mapping

RENAMED_SETTINGS: Mapping[str, str] = {
    "max_waiting": "max_waiting_requests",
    "keep_alive_seconds": "sse_keep_alive_seconds",
    "adapter_folder": "adapter_dir",
    "adapter_downloads": "allow_adapter_downloads",
    "open": "allow_unauthenticated",
    "hosts": "dialect_hosts",
    "proxies": "trusted_proxies",
    "accounts.journals": "accounts.journal_dir",
    "accounts.hold_cap": "accounts.max_hold_tokens",
    "queue.ageing_seconds": "queue.priority_aging_seconds",
    "queue.max_waiting": "queue.max_queued_jobs",
    "queue.held_seconds": "queue.client_wait_seconds",
    "queue.result_hours": "queue.result_ttl_hours",
    "queue.result_bytes": "queue.max_result_bytes",
    "queue.webhook_allow_private": "queue.webhook_allow_private_addresses",
    "queue.webhook_attempts": "queue.webhook_max_attempts",
    "engine.context_cells": "engine.kv_cache_tokens",
    "engine.parallel": "engine.max_sequences",
    "engine.step_tokens": "engine.max_batched_tokens",
    "engine.saved_tokens": "engine.host_cache_tokens",
    "engine.rewrite_weights": "engine.requantize",
    "engine.library": "engine.llama_library",
}
"""Old key → key."""

RENAMED_VALUES: Mapping[str, Mapping[str, str]] = {"deployments.load": {"start": "eager", "first use": "lazy"}}
"""Key in a table of an array → old value → value."""
