"""What answers requests. An engine knows core (and prompt/ for chat templates) and nothing else of the server."""
