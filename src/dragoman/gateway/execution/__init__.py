"""Run admitted requests and measure them."""
