"""Pictures and text of a provenance graph; nothing here opens a store or a payload."""
