"""Sealing: what is recorded is encrypted before it is stored.

``padding`` hides lengths, ``envelope`` seals one payload, ``keyring`` holds and opens the keys,
``home`` says where they live on disk. Import from the modules; this file loads none of them.
"""
