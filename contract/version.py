"""Trireme's version, spelt here alone: for the gateway, the clients and the builds."""

VERSION = "0.1.0"
