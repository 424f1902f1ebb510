"""Admit requests, reserve what they may cost, and settle what they used."""
