"""How long tests wait for what must come about."""

PATIENCE_SECONDS = 120
"""No promise of speed: only what never comes is to fail, however busy the machine is with other things."""
