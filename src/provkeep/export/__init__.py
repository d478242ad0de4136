"""Graphs as documents other programs read: node-link JSON, PROV-JSON, data frames."""
