"""From a dialect to an engine: authentication, admission, routing and execution of requests."""
