"""The transparency log: one append-only sequence, provable without a key.

``merkle`` holds the hashes and proofs, ``checkpoint`` the signed tree heads, ``pin`` the tree
head remembered outside the store, ``log`` the sequence in a store. Nothing here imports
``sealing``: verification needs no key. Import from the modules; this file loads none of them.
"""
